-- Refresh tokens that are used once. A token and those that it was exchanged for are a family; all of them
-- end when one is used again.

-- 'rotate': the key's refresh tokens are used once. NULL: until they expire, as JWThenticator's clients expect.
ALTER TABLE keys ADD COLUMN refresh_policy VARCHAR(16);

-- The first token of the family; NULL for that one itself.
ALTER TABLE refresh_tokens ADD COLUMN family INTEGER;
-- The token that this one was given for.
ALTER TABLE refresh_tokens ADD COLUMN parent INTEGER;
ALTER TABLE refresh_tokens ADD COLUMN used_at TIMESTAMP;
ALTER TABLE refresh_tokens ADD COLUMN revoked_at TIMESTAMP;
-- The token_id of the access token that was issued together with this one.
ALTER TABLE refresh_tokens ADD COLUMN access_id VARCHAR(36);

CREATE INDEX refresh_tokens_family ON refresh_tokens (family);

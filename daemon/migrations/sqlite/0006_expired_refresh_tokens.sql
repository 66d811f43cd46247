-- Expired refresh tokens are deleted in small steps, which must not look at every row.
CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);

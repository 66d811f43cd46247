-- Keys are shown, revoked and deleted with their refresh tokens, which must not look at every row. The foreign
-- key looks too, whenever a key is deleted.
CREATE INDEX refresh_tokens_key_id ON refresh_tokens (key_id);

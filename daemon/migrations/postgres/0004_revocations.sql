-- What is refused before it expires. A key that is revoked stays so, also if it is registered again.
ALTER TABLE keys ADD COLUMN revoked_at TIMESTAMP;

CREATE TABLE jwtunnel_revocations (
    -- 'token_id', 'identifier', 'key' (the key's public_id) or 'kid'.
    kind VARCHAR(16) NOT NULL,
    value VARCHAR(256) NOT NULL,
    -- Unix seconds: for an identifier, tokens issued before this are refused.
    before BIGINT,
    -- Unix seconds: when the last token that this is about has expired, and the row can go.
    until BIGINT NOT NULL,
    PRIMARY KEY (kind, value)
);

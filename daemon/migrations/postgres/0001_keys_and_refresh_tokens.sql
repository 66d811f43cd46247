-- Registered keys and refresh tokens, in JWThenticator's own tables, so that a database can move in
-- either direction; what is ours is in nullable columns that it does not see.
--
-- Times are naive UTC, and never NULL: the original refuses rows without a time.

CREATE TABLE keys (
    id SERIAL NOT NULL PRIMARY KEY,
    -- Lower-case hex SHA-512 of the key in UTF-8. Unique, so that simultaneous registrations meet.
    key_hash VARCHAR(256),
    -- The identifier given at the first registration.
    identifier UUID NOT NULL,
    created TIMESTAMP WITHOUT TIME ZONE,
    expires_at TIMESTAMP WITHOUT TIME ZONE,
    -- The random name of the key in tokens (claim `key`); NULL in rows of the original.
    public_id VARCHAR(32),
    -- 'registered' in our rows. NULL, as in rows of the original: tokens carry the identifier that
    -- their request asserts.
    identity VARCHAR(16),
    CONSTRAINT keys_key_hash_key UNIQUE (key_hash)
);

CREATE TABLE refresh_tokens (
    id SERIAL NOT NULL PRIMARY KEY,
    -- 'h1$' and the lower-case hex SHA-256 of the token.
    token VARCHAR(512),
    key_id INTEGER,
    created TIMESTAMP WITHOUT TIME ZONE,
    expires_at TIMESTAMP WITHOUT TIME ZONE,
    FOREIGN KEY (key_id) REFERENCES keys (id)
);

-- Every refresh looks a token up.
CREATE INDEX refresh_tokens_token ON refresh_tokens (token);

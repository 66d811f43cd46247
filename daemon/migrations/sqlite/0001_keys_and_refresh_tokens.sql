-- Registered keys and refresh tokens, in JWThenticator's own tables, so that a database can move in
-- either direction; what is ours is in nullable columns that it does not see.
--
-- Times are naive UTC, always written YYYY-MM-DD HH:MM:SS.ffffff, and never NULL: the original reads
-- no other form on every Python version, and refuses rows without a time.

CREATE TABLE keys (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- Lower-case hex SHA-512 of the key in UTF-8. Unique, so that simultaneous registrations meet.
    key_hash VARCHAR(256),
    -- The identifier given at the first registration: 32 hex digits in lower case, no hyphens.
    identifier CHAR(32) NOT NULL,
    created DATETIME,
    expires_at DATETIME,
    -- The random name of the key in tokens (claim `key`); NULL in rows of the original.
    public_id VARCHAR(32),
    -- 'registered' in our rows. NULL, as in rows of the original: tokens carry the identifier that
    -- their request asserts.
    identity VARCHAR(16),
    CONSTRAINT keys_key_hash_key UNIQUE (key_hash)
);

CREATE TABLE refresh_tokens (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- 'h1$' and the lower-case hex SHA-256 of the token.
    token VARCHAR(512),
    key_id INTEGER,
    created DATETIME,
    expires_at DATETIME,
    FOREIGN KEY (key_id) REFERENCES keys (id)
);

-- Every refresh looks a token up.
CREATE INDEX refresh_tokens_token ON refresh_tokens (token);

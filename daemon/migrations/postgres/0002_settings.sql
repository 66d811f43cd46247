-- What holds for this database, whichever daemon uses it.
--
-- refresh_tokens: 'hashed', or 'clear' where a JWThenticator uses the same database and has to find them.
CREATE TABLE IF NOT EXISTS jwtunnel_settings (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    value VARCHAR(256) NOT NULL
);

INSERT INTO jwtunnel_settings (name, value) VALUES ('refresh_tokens', 'hashed')
ON CONFLICT (name) DO NOTHING;

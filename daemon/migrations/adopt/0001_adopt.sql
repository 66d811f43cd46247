-- Makes a database of JWThenticator one of ours, for both engines, in place of the first migration. No
-- row is changed, and what is added it does not see: it goes on working with the database.

ALTER TABLE keys ADD COLUMN public_id VARCHAR(32);
ALTER TABLE keys ADD COLUMN identity VARCHAR(16);

CREATE INDEX refresh_tokens_token ON refresh_tokens (token);

CREATE TABLE jwtunnel_settings (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    value VARCHAR(256) NOT NULL
);

-- It looks refresh tokens up as they were given out, also those that we issue.
INSERT INTO jwtunnel_settings (name, value) VALUES ('refresh_tokens', 'clear');

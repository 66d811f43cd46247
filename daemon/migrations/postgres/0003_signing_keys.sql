-- The signing keys of all daemons on this database, where [keys] encryption_key_file is set.
CREATE TABLE jwtunnel_signing_keys (
    kid VARCHAR(64) NOT NULL PRIMARY KEY,
    algorithm VARCHAR(16) NOT NULL,
    created BIGINT NOT NULL,
    -- Seconds; how long the key must stay published after its last signature.
    longest_lifetime BIGINT NOT NULL,
    -- 'announced', 'signing' or 'retiring'.
    state VARCHAR(16) NOT NULL,
    -- Unix seconds: when an announced key signs, when a retiring one leaves.
    due BIGINT,
    signing_since BIGINT,
    -- 'v1:' and base64 of nonce and AES-256-GCM of the PKCS#8 PEM, the kid as associated data.
    private_key TEXT NOT NULL
);

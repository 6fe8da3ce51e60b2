-- Stored scripts with their versions, and what scripts keep for their tenants.

-- +goose Up
CREATE TABLE scripts (
    tenant      TEXT NOT NULL,
    name        TEXT NOT NULL,
    version     BIGINT NOT NULL,
    language    TEXT NOT NULL,
    fingerprint TEXT NOT NULL,   -- hex SHA-256 of the source
    size_bytes  BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    source      TEXT NOT NULL,   -- the last, so that sums over sizes need not read it
    PRIMARY KEY (tenant, name, version)
);

CREATE TABLE script_values (
    tenant TEXT NOT NULL,
    key    TEXT NOT NULL,
    size   BIGINT NOT NULL,      -- bytes of key and value
    value  TEXT NOT NULL,        -- JSON
    PRIMARY KEY (tenant, key)
);

-- The sums over a tenant's script_values, kept with every write.
CREATE TABLE script_use (
    tenant TEXT PRIMARY KEY,
    keys   BIGINT NOT NULL,
    bytes  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE script_use;
DROP TABLE script_values;
DROP TABLE scripts;

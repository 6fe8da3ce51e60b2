-- +goose Up
CREATE TABLE script (
    tenant      TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    language    TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    size_bytes  BIGINT  NOT NULL,
    created_at  BIGINT  NOT NULL, -- milliseconds since 1970
    PRIMARY KEY (tenant, name, version)
);

CREATE TABLE script_value (
    tenant TEXT NOT NULL,
    key    TEXT NOT NULL,
    value  BLOB NOT NULL, -- JSON
    PRIMARY KEY (tenant, key)
);

-- +goose Down
DROP TABLE script_value;
DROP TABLE script;

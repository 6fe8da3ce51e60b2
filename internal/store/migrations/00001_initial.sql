-- The schema is written in the part of SQL that SQLite and PostgreSQL share:
-- TEXT, BIGINT, BOOLEAN, partial indexes. Times are Unix nanoseconds. Tables for
-- tenants, tiers, allocations, usage and audit refer to tenant and sandbox ids.

-- +goose Up
CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE, -- hex SHA-256 of the key
    prefix     TEXT NOT NULL,        -- what may be shown of it
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    scopes     TEXT NOT NULL,        -- JSON array
    created_at BIGINT NOT NULL,
    revoked_at BIGINT                -- NULL while it is good
);

CREATE INDEX api_keys_by_tenant ON api_keys (tenant, created_at);

CREATE TABLE sandboxes (
    id              TEXT PRIMARY KEY,
    tenant          TEXT NOT NULL,
    template_id     TEXT NOT NULL,
    template        TEXT NOT NULL,
    template_digest TEXT NOT NULL,
    state           TEXT NOT NULL,
    started_at      BIGINT NOT NULL,
    end_at          BIGINT NOT NULL,
    limits          TEXT NOT NULL,   -- JSON
    metadata        TEXT NOT NULL,   -- JSON
    env             TEXT NOT NULL,   -- JSON
    envd_token      TEXT NOT NULL,
    traffic_token   TEXT NOT NULL,
    allow_internet  BOOLEAN NOT NULL,
    mask_host       TEXT NOT NULL,
    envd_version    TEXT NOT NULL,
    address         TEXT NOT NULL,
    box             TEXT NOT NULL,   -- the driver's name of its box on the node
    ended_at        BIGINT,          -- NULL until state is ended
    end_cause       TEXT,            -- NULL until its end is decided
    end_evidence    TEXT             -- JSON, with end_cause
);

CREATE INDEX sandboxes_by_tenant ON sandboxes (tenant, started_at);
CREATE INDEX sandboxes_live ON sandboxes (started_at) WHERE ended_at IS NULL;
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE ended_at IS NOT NULL;

-- +goose Down
DROP TABLE sandboxes;
DROP TABLE api_keys;

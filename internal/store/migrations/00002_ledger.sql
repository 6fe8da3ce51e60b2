-- Tenants, tiers, what they used, and who did what.

-- +goose Up
CREATE TABLE tiers (
    name       TEXT PRIMARY KEY,
    multiplier DOUBLE PRECISION NOT NULL,
    priority   BIGINT NOT NULL,
    quota      TEXT NOT NULL -- JSON; a field that is missing is unlimited
);

INSERT INTO tiers (name, multiplier, priority, quota) VALUES
    ('free', 0.5, 1, '{"sandboxes":5,"cpu":4,"memoryMB":4096,"diskMB":10240,"sandbox":{"cpu":2,"memoryMB":2048,"diskMB":2048},"ttlSeconds":3600,"createsPerSecond":1,"cpuSecondsPerDay":7200,"gbHoursPerDay":12}'),
    ('basic', 1.0, 2, '{"sandboxes":20,"cpu":20,"memoryMB":20480,"diskMB":102400,"sandbox":{"cpu":4,"memoryMB":8192,"diskMB":10240},"ttlSeconds":86400,"createsPerSecond":2,"cpuSecondsPerDay":86400,"gbHoursPerDay":240}'),
    ('premium', 1.5, 3, '{"sandboxes":100,"cpu":100,"memoryMB":204800,"diskMB":1024000,"sandbox":{"cpu":8,"memoryMB":32768,"diskMB":51200},"ttlSeconds":86400,"createsPerSecond":5,"cpuSecondsPerDay":864000,"gbHoursPerDay":2400}'),
    ('enterprise', 2.0, 4, '{"sandboxes":1000,"sandbox":{"cpu":16,"memoryMB":65536,"diskMB":204800},"ttlSeconds":86400,"createsPerSecond":20}'),
    ('unlimited', 1.0, 4, '{}');

CREATE TABLE tenants (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    tier       TEXT NOT NULL REFERENCES tiers (name),
    quota      TEXT NOT NULL, -- JSON; a field that is missing is the tier's
    created_at BIGINT NOT NULL
);

CREATE INDEX tenants_by_tier ON tenants (tier);

-- Whoever is there already goes on as before.
INSERT INTO tenants (id, name, tier, quota, created_at) VALUES ('default', '', 'unlimited', '{}', 0);
INSERT INTO tenants (id, name, tier, quota, created_at)
    SELECT tenant, '', 'unlimited', '{}', MIN(created_at) FROM (
        SELECT tenant, created_at FROM api_keys UNION ALL SELECT tenant, started_at FROM sandboxes
    ) AS known WHERE tenant <> 'default' GROUP BY tenant;

-- A key's scopes get their names, and a key that is replaced is good for a while.
ALTER TABLE api_keys ADD COLUMN previous_hash TEXT;          -- hex SHA-256, NULL if never rotated
ALTER TABLE api_keys ADD COLUMN previous_until BIGINT;       -- with previous_hash
ALTER TABLE api_keys ADD COLUMN requests_per_second DOUBLE PRECISION NOT NULL DEFAULT 0; -- 0 is unlimited
ALTER TABLE api_keys ADD COLUMN creates_per_second DOUBLE PRECISION NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX api_keys_by_previous ON api_keys (previous_hash) WHERE previous_hash IS NOT NULL;
UPDATE api_keys SET scopes = REPLACE(REPLACE(scopes, '"sandboxes"', '"run"'), '"admin"', '"manage","admin"');

-- What a sandbox used on a UTC day. The row without a sandbox is the sum over
-- those of its tenant and day whose own rows are no longer kept.
CREATE TABLE usage (
    day             BIGINT NOT NULL, -- days since 1970-01-01
    tenant          TEXT NOT NULL,
    sandbox         TEXT NOT NULL,
    sandboxes       BIGINT NOT NULL, -- how many of those it stands for started on the day
    wall_ns         BIGINT NOT NULL,
    cpu_ns          BIGINT NOT NULL,
    memory_mib_ms   BIGINT NOT NULL,
    egress_bytes    BIGINT NOT NULL,
    ingress_bytes   BIGINT NOT NULL,
    meter_at        BIGINT NOT NULL, -- when, and at which of the box's counters, it was measured last
    meter_cpu_ns    BIGINT NOT NULL,
    meter_egress    BIGINT NOT NULL,
    meter_ingress   BIGINT NOT NULL,
    PRIMARY KEY (day, tenant, sandbox)
);

CREATE INDEX usage_by_sandbox ON usage (sandbox, day) WHERE sandbox <> '';
CREATE INDEX usage_by_tenant ON usage (tenant, day);

CREATE TABLE audit (
    id            TEXT PRIMARY KEY,  -- a UUIDv7: in the order in which they were made
    at            BIGINT NOT NULL,
    tenant        TEXT NOT NULL,     -- whose key it was
    key_id        TEXT NOT NULL,
    action        TEXT NOT NULL,
    target        TEXT NOT NULL,
    target_tenant TEXT NOT NULL,
    source        TEXT NOT NULL,     -- the address it came from
    request       TEXT NOT NULL,
    outcome       TEXT NOT NULL,     -- "ok" or an error's code
    detail        TEXT NOT NULL
);

CREATE INDEX audit_by_time ON audit (at);

-- +goose Down
DROP TABLE audit;
DROP TABLE usage;
DROP INDEX api_keys_by_previous;
ALTER TABLE api_keys DROP COLUMN creates_per_second;
ALTER TABLE api_keys DROP COLUMN requests_per_second;
ALTER TABLE api_keys DROP COLUMN previous_until;
ALTER TABLE api_keys DROP COLUMN previous_hash;
UPDATE api_keys SET scopes = REPLACE(REPLACE(scopes, '"manage","admin"', '"admin"'), '"run"', '"sandboxes"');
DROP TABLE tenants;
DROP TABLE tiers;

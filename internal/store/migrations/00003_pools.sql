-- What a server knows about the pools of its templates: what the forecast has
-- learned, and sizes that an operator set.

-- +goose Up
CREATE TABLE pools (
    template  TEXT PRIMARY KEY, -- its name
    forecast  TEXT NOT NULL,    -- JSON; empty when nothing was learned
    pin_warm  BIGINT,           -- both NULL unless pinned
    pin_cold  BIGINT,
    saved_at  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE pools;

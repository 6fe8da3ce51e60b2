-- What was granted to a sandbox, and why: in its own row, so that one write makes
-- both durable.

-- +goose Up
ALTER TABLE sandboxes ADD COLUMN allocation TEXT; -- JSON, NULL if it was made before

-- +goose Down
ALTER TABLE sandboxes DROP COLUMN allocation;

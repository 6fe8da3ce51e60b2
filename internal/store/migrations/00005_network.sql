-- What a sandbox may reach outside, as its owner asked for it.

-- +goose Up
ALTER TABLE sandboxes ADD COLUMN network TEXT NOT NULL DEFAULT '{}'; -- JSON

-- +goose Down
ALTER TABLE sandboxes DROP COLUMN network;

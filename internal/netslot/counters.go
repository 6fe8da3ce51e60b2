package netslot

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Counters returns how many bytes left and entered the box by its link since the
// slot was made, those of earlier leases included. It reads two small files.
func (s *Slot) Counters() (egress, ingress int64, err error) {
	dir := filepath.Join(s.a.sysfs, s.Link(), "statistics")
	// What the host receives is what the box sends.
	if egress, err = counter(filepath.Join(dir, "rx_bytes")); err == nil {
		ingress, err = counter(filepath.Join(dir, "tx_bytes"))
	}
	if err != nil {
		return 0, 0, opError(s.n, "count bytes", err)
	}
	return egress, ingress, nil
}

func counter(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

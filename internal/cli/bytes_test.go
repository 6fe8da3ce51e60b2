package cli_test

import (
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/cli"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "512": 512, "512M": 512, "512MiB": 512, "512 mib": 512, "2g": 2048, "2GiB": 2048, "1GB": 954, "1500KiB": 2, "1T": 1 << 20,
	} {
		var b cli.Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b.MiB() != want {
			t.Errorf("%q is %d MiB, %v; want %d", text, b.MiB(), err, want)
		}
	}
	for _, text := range []string{"", "M", "lots", "-1", "1K", "0", "1e99GiB", "99999999999TiB", "1 2"} {
		var b cli.Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %d bytes", text, b)
		}
	}
}

// A limit of 0 is none; nobody gets the default who asks for it.
func TestLimitsAreNotZero(t *testing.T) {
	for text, want := range map[string]bool{"1": true, "4096": true, "0": false, "-1": false, "1.5": false, "x": false, "": false} {
		var c cli.Count
		if err := c.UnmarshalText([]byte(text)); (err == nil) != want {
			t.Errorf("the count %q is %d, %v", text, c, err)
		}
	}
	for text, want := range map[string]bool{"1": true, "0.5": true, "0": false, "-1": false, "NaN": false, "x": false, "": false} {
		var c cli.Cores
		if err := c.UnmarshalText([]byte(text)); (err == nil) != want {
			t.Errorf("%q cores are %g, %v", text, c, err)
		}
	}
}

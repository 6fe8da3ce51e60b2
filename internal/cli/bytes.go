package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// Bytes is a size on the command line: "512MiB", "512M", which is the same, "2GB",
// or a plain number of MiB.
type Bytes uint64

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := string(text)
	switch last := s[max(len(s)-1, 0):]; {
	case last >= "0" && last <= "9":
		s += "MiB"
	case strings.Contains("KMGTkmgt", last) && last != "":
		s += "iB"
	}
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return fmt.Errorf("%q is not a size; write 512MiB or 2GiB", text)
	}
	if n < 1<<20 {
		return fmt.Errorf("%q is less than 1 MiB", text)
	}
	*b = Bytes(n)
	return nil
}

// MiB is the size in MiB, rounded up.
func (b Bytes) MiB() int64 { return int64((b + 1<<20 - 1) >> 20) }

// Count is a limit on the command line that is a whole number. There is none of 0:
// a flag that is not given is 0.
type Count int64

// UnmarshalText reads a number.
func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is no limit; it must be a whole number from 1 on", text)
	}
	*c = Count(n)
	return nil
}

// Cores is a limit of CPU on the command line, as Count is one of other things.
type Cores float64

// UnmarshalText reads a number.
func (c *Cores) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(n > 0) {
		return fmt.Errorf("%q is no limit; it must be a number of cores such as 0.5", text)
	}
	*c = Cores(n)
	return nil
}

package envd

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bulkheadhq/bulkhead/internal/envd/sysfile"
)

// online is where C libraries read how many processors there are, for
// sysconf(_SC_NPROCESSORS_ONLN), and onlineFile what is mounted there: the
// kernel's own was fixed when the box was made, for its template's size.
const (
	online     = "/sys/devices/system/cpu/online"
	onlineFile = "/run/bulkhead/cpu_online"
)

// bindOnline puts a copy of the kernel's list in its place. A kernel that shows no
// list needs none.
func (s *System) bindOnline() error {
	list, err := sysfile.Read(filepath.Join(s.Root, online), 4096)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.write(onlineFile, string(list))
	}
	if err != nil {
		return err
	}
	if _, last, ok := strings.Cut(strings.TrimSpace(string(list)), "-"); ok {
		s.lastCore, _ = strconv.ParseInt(last, 10, 64) // 0 when it is of another form
	}
	return s.Bind(filepath.Join(s.Root, onlineFile), filepath.Join(s.Root, online))
}

// writeOnline lists the first n processors, of those that the kernel has, unless
// that is what is listed.
func (s *System) writeOnline(n int64) error {
	list := "0\n"
	if last := min(n-1, s.lastCore); last > 0 {
		list = "0-" + strconv.FormatInt(last, 10) + "\n"
	}
	old, err := sysfile.Read(filepath.Join(s.Root, onlineFile), 4096)
	if errors.Is(err, os.ErrNotExist) || err == nil && string(old) == list {
		return nil
	}
	return s.write(onlineFile, list)
}

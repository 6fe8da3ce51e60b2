package template

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// accountsTree makes a tree with the account files.
func accountsTree(t testing.TB, passwd, group string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func TestAccounts(t *testing.T) {
	testenv.Need(t, "root")
	const rootLine = "root:*:0:0:root:/root:/bin/sh\n"
	for _, tc := range []struct {
		name, passwd, group, want, user string
		wantPasswd, wantGroup           string
	}{
		{"empty", "", "", "", "user", rootLine + "user:*:1000:1000::/home/user:/bin/sh\n", "root:x:0:\nuser:x:1000:\n"},
		{"no newline", "root:*:0:0:root:/root:/bin/sh", "", "", "user", rootLine + "user:*:1000:1000::/home/user:/bin/sh\n", "user:x:1000:\n"},
		{"uid taken", rootLine + "node:x:1000:1000::/home/node:/bin/sh\n", "node:x:1000:\n", "", "user", rootLine + "node:x:1000:1000::/home/node:/bin/sh\nuser:*:1001:1001::/home/user:/bin/sh\n", "node:x:1000:\nuser:x:1001:\n"},
		{"group there", rootLine, "user:x:7:\n", "root", "root", rootLine + "user:*:1000:7::/home/user:/bin/sh\n", "user:x:7:\n"},
		{"user there", rootLine + "user:x:5:6::/u:/bin/sh\n", "", "5", "user", rootLine + "user:x:5:6::/u:/bin/sh\n", ""},
		{"number", rootLine, "", "65534", "uid65534", rootLine + "user:*:1000:1000::/home/user:/bin/sh\nuid65534:*:65534:65534::/:/bin/sh\n", "user:x:1000:\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := accountsTree(t, tc.passwd, tc.group)
			if err := addUser(root); err != nil {
				t.Fatal(err)
			}
			user, err := finishAccounts(root, tc.want)
			if err != nil || user != tc.user {
				t.Errorf("default user = %q, %v, want %q", user, err, tc.user)
			}
			for file, want := range map[string]string{"etc/passwd": tc.wantPasswd, "etc/group": tc.wantGroup} {
				got, err := root.ReadFile(file)
				if d := cmp.Diff(want, string(got)); d != "" || err != nil {
					t.Errorf("%s (-want +got):\n%s%v", file, d, err)
				}
			}
		})
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", "root:x:0:\n", "user")
	f.Add("user:x:99999999999:-1::../../x:/bin/sh\n", "user:x:x:\n:::", "4294967295")
	f.Fuzz(func(t *testing.T, passwd, group, want string) {
		testenv.Need(t, "root")
		root := accountsTree(t, passwd, group)
		err := addUser(root)
		if err == nil {
			var user string
			if user, err = finishAccounts(root, want); err == nil && !accountSyntax.MatchString(user) {
				t.Errorf("default user %q", user)
			}
		}
		if err != nil && bulkhead.CodeOf(err) == bulkhead.CodeInternal {
			t.Logf("refused: %v", err) // such as a home that is no name for a directory
		}
	})
}

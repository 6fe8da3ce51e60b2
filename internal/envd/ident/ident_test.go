package ident_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/envd/ident"
)

func accounts(t *testing.T) ident.Accounts {
	t.Helper()
	a := ident.Accounts{Passwd: filepath.Join(t.TempDir(), "passwd"), Group: filepath.Join(t.TempDir(), "group")}
	for path, text := range map[string]string{
		a.Passwd: "root:x:0:0:root:/root:/bin/bash\n# comment:x:9:9::/:/x\nuser:x:1000:1000:,,,:/home/user/:/bin/bash\n" +
			"homeless:x:7:8:::\nshort:x:1\nbad:x:y:z::/:/bin/sh\nuser:x:5:5::/second:/bin/sh\n",
		a.Group: "root:x:0:\nuser:x:1000:user\nsudo:x:27:user,other\ndocker:x:99:otheruser\nvideo:x:44:other,user\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func TestAccounts(t *testing.T) {
	a := accounts(t)
	b := ident.New(a, "/bin")
	for _, want := range []ident.User{
		{Name: "root", Home: "/root"},
		{Name: "user", UID: 1000, GID: 1000, Groups: []uint32{27, 44}, Home: "/home/user"},
		{Name: "homeless", UID: 7, GID: 8, Home: "/"},
	} {
		got, err := b.User(want.Name)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	var unknown *ident.UserError
	for _, name := range []string{"none", "short", "bad", "# comment", "a:b", strings.Repeat("x", 40)} {
		if u, err := b.User(name); !errors.As(err, &unknown) || unknown.Name != name {
			t.Errorf("User(%q) = %v, %v", name, u, err)
		}
	}
	if _, err := ident.New(ident.Accounts{Passwd: "/no/such"}, "").User("root"); !errors.As(err, &unknown) {
		t.Errorf("without a file: %v", err)
	}
	names := b.Names()
	for _, test := range []struct{ got, want string }{
		{names.User(1000), "user"},
		{names.User(0), "root"},
		{names.User(4242), "4242"},
		{names.Group(27), "sudo"},
		{names.Group(4242), "4242"},
		{ident.New(ident.Accounts{Passwd: "/no/such", Group: "/no/such"}, "").Names().User(0), "0"},
	} {
		if test.got != test.want {
			t.Errorf("name = %q; want %q", test.got, test.want)
		}
	}
	// A user who is added is known at once.
	f, err := os.OpenFile(a.Passwd, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("later:x:77:77::/later:/bin/sh\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if u, err := b.User("later"); err != nil || u.UID != 77 {
		t.Errorf("User(later) = %v, %v", u, err)
	}
}

func TestToken(t *testing.T) {
	b := ident.New(accounts(t), "/bin")
	if _, bound := b.Init(); bound || b.Guarded() || b.Holds("") {
		t.Error("a new box has an identity")
	}
	b.Bind(boxrpc.Init{})
	if _, bound := b.Init(); !bound || b.Guarded() || b.Holds("") {
		t.Error("a box without a token asks for one")
	}
	b.Bind(boxrpc.Init{AccessToken: "secret"})
	if !b.Guarded() || !b.Holds("secret") || b.Holds("secre") || b.Holds("") || b.Holds("secret2") {
		t.Error("the token is not told from others")
	}
}

func TestCaller(t *testing.T) {
	b := ident.New(accounts(t), "/bin")
	caller := func(auth string) (string, error) {
		u, err := b.Caller(http.Header{"Authorization": {auth}})
		return u.Name, err
	}
	for _, test := range []struct{ auth, def, want string }{
		{"", "", "user"},
		{"", "root", "root"},
		{"Basic dXNlcjo=", "root", "user"}, // user:
		{"Basic cm9vdDpwYXNz", "", "root"}, // root:pass
		{"Basic Og==", "root", "root"},     // :
		{"Bearer whatever", "homeless", "homeless"},
	} {
		b.Bind(boxrpc.Init{DefaultUser: test.def})
		if got, err := caller(test.auth); err != nil || got != test.want {
			t.Errorf("%q with default %q = %q, %v; want %q", test.auth, test.def, got, err, test.want)
		}
	}
	for _, auth := range []string{"Basic bm9uZTo=", "Basic YS9iOg=="} { // none: and a/b:
		if _, err := caller(auth); connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "invalid username: '") {
			t.Errorf("%q: %v", auth, err)
		}
	}
	b.Bind(boxrpc.Init{DefaultUser: "gone"})
	if _, err := caller(""); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("missing default user: %v", err)
	}
}

func TestEnviron(t *testing.T) {
	b := ident.New(accounts(t), "/bin")
	b.Bind(boxrpc.Init{SandboxID: "i1", TemplateID: "t1", Env: map[string]string{"A": "1", "PATH": "/box", "E2B_SANDBOX": "no"}})
	u, err := b.User("user")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"A=2", "E2B_SANDBOX=true", "E2B_SANDBOX_ID=i1", "E2B_TEMPLATE_ID=t1",
		"HOME=/home/user", "LOGNAME=user", "PATH=/box", "USER=user",
	}
	if diff := cmp.Diff(want, b.Environ(u, map[string]string{"A": "2", "E2B_SANDBOX_ID": "i2"})); diff != "" {
		t.Error(diff)
	}
	wantShared := map[string]string{"A": "1", "PATH": "/box", "E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "i1", "E2B_TEMPLATE_ID": "t1"}
	if diff := cmp.Diff(wantShared, b.Env()); diff != "" {
		t.Error(diff)
	}
}

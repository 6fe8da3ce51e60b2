package boxrpc_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

func TestInitValidate(t *testing.T) {
	many := make(map[string]string)
	for i := range boxrpc.MaxEnvVars + 1 {
		many["V"+strconv.Itoa(i)] = ""
	}
	for _, test := range []struct {
		name string
		init boxrpc.Init
		want string // in the message; "" means valid
	}{
		{"empty", boxrpc.Init{}, ""},
		{"full", boxrpc.Init{
			SandboxID: "i0123456789abcdefghij", TemplateID: "code-interpreter-v1", Hostname: "e2b.local",
			MachineID: strings.Repeat("0a", 16), Env: map[string]string{"A": "=\n", "B": ""}, AccessToken: "t",
			DefaultUser: "user", DefaultWorkdir: "~/code", Nameservers: []string{"8.8.8.8", "::1"},
			Seed: make([]byte, 32), MemoryBytes: 1, Pids: 1, OutputBytes: 1,
		}, ""},
		{"sandbox id", boxrpc.Init{SandboxID: "a/b"}, "sandboxID"},
		{"template id", boxrpc.Init{TemplateID: "a b"}, "templateID"},
		{"host name", boxrpc.Init{Hostname: "-a"}, "hostname"},
		{"long host name", boxrpc.Init{Hostname: strings.Repeat("a", 65)}, "hostname"},
		{"host name with a line", boxrpc.Init{Hostname: "a\n1.2.3.4 evil"}, "hostname"},
		{"machine id", boxrpc.Init{MachineID: "0A"}, "machineID"},
		{"user", boxrpc.Init{DefaultUser: "a:b"}, "defaultUser"},
		{"work dir", boxrpc.Init{DefaultWorkdir: "code"}, "defaultWorkdir"},
		{"work dir with NUL", boxrpc.Init{DefaultWorkdir: "/a\x00b"}, "defaultWorkdir"},
		{"token", boxrpc.Init{AccessToken: strings.Repeat("t", boxrpc.MaxTokenBytes+1)}, "accessToken"},
		{"memory", boxrpc.Init{MemoryBytes: -1}, "memoryBytes"},
		{"pids", boxrpc.Init{Pids: -1}, "pids"},
		{"output", boxrpc.Init{OutputBytes: -1}, "outputBytes"},
		{"seed", boxrpc.Init{Seed: make([]byte, 257)}, "seed"},
		{"name server", boxrpc.Init{Nameservers: []string{"dns.example"}}, "nameservers"},
		{"name servers", boxrpc.Init{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"}}, "nameservers"},
		{"no variable name", boxrpc.Init{Env: map[string]string{"": "x"}}, "envVars"},
		{"variable name", boxrpc.Init{Env: map[string]string{"A=B": "x"}}, "envVars"},
		{"variable with NUL", boxrpc.Init{Env: map[string]string{"A": "\x00"}}, `"A"`},
		{"variables", boxrpc.Init{Env: many}, "at most"},
		{"bytes of variables", boxrpc.Init{Env: map[string]string{"A": strings.Repeat("x", boxrpc.MaxEnvBytes)}}, "bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.init.Validate()
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if bulkhead.CodeOf(err) != bulkhead.CodeInvalid || !strings.Contains(bulkhead.Message(err), test.want) {
				t.Errorf("error = %v; want code %q and %q in it", err, bulkhead.CodeInvalid, test.want)
			}
		})
	}
}

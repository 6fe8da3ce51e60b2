// Package cli is Bulkhead's command line: the commands that talk to a server, as
// a kong grammar for cmd to embed beside its own.
//
// # Exit codes
//
//	0    the code ran, the program exited with 0, the request was carried out
//	1    the code raised an exception; or the request failed for a reason not below
//	2    wrong usage
//	3    no server answered
//	4    refused for now: the tenant's quota is used up, or the host is full
//	5    the API key is missing, unknown, or may not do this
//	120  the sandbox reached the end of its time to live    (expired)
//	121  the program needed too many processes or threads   (pids_limit)
//	122  the program wrote more than its disk holds          (disk_limit)
//	123  the program printed too much                        (output_limit)
//	124  the program ran too long                            (time_limit)
//	130  interrupted with ^C
//	134  the sandbox died by itself                          (crashed)
//	137  the program needed too much memory                  (memory_limit)
//	143  the sandbox was ended by its owner                  (killed)
//
// Where a program of the user's ran, as in "sandbox exec", its own exit code is
// handed on, so that one of these may also be the program's choice; --json tells
// them apart.
//
// # Output
//
// What was asked for goes to standard output, in tables for people or, with
// --json, in a form whose field names stay. Everything else goes to standard
// error, each line beginning with "bulkhead: ". Colours appear only on a
// terminal and never when NO_COLOR is set. Text that came out of a sandbox is
// printed as it is by run and exec, and freed of control characters in tables.
package cli

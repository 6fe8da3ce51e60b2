# Bulkhead's bash kernel: what an interactive bash reads first from the pipe that is
# its standard input. After it come the requests, as commands. Interactive, because
# such a shell goes on after an interrupt with all its variables.
PS1= PS2= PROMPT_COMMAND=
set +H +o history
unset MAILCHECK TMOUT
exec 104>&4 3<&- 4>&- 5<&-

# One message of less than 256 bytes: its length in four bytes, and the JSON.
_bulkhead_say() {
	local size
	printf -v size '\\x%02x' "${#1}"
	printf "\\x00\\x00\\x00$size%s" "$1" >&104
}

# The end of an execution with the status $1.
_bulkhead_done() {
	local status=${_bulkhead_exit:-$1}
	unset _bulkhead_exit
	if [ "$status" != 0 ]; then
		_bulkhead_say '{"ev":"error","name":"ExitStatus","value":"'"$status"'"}'
	fi
	_bulkhead_say '{"ev":"done"}'
}

# exit ends the execution, not the shell: an interrupt unwinds it. A subshell exits
# as ever.
exit() {
	local status=${1:-$?}
	if [ "$BASHPID" != "$$" ]; then
		builtin exit "$status"
	fi
	_bulkhead_exit=$status
	kill -INT $$
}

trap '' INT # until something runs
_bulkhead_say '{"ev":"ready"}'

// a comment that names a file of the host
// end: exited 1 TypeError
null.x
//# sourceMappingURL=file:///etc/passwd

package api

// Patterns shows a test every route that needs a key.
func Patterns(s *Server) []string { return s.patterns }

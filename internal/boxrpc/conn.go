package boxrpc

import (
	"errors"
	"net"
	"sync"
)

// UntilDone returns conn as one that is closed when done is. A box that is
// destroyed sends no farewell: whoever reads from it would wait for ever.
func UntilDone(conn net.Conn, done <-chan struct{}) net.Conn {
	m := &mortal{Conn: conn, closed: make(chan struct{})}
	go func() {
		select {
		case <-done:
			_ = m.Close() // whoever uses it finds out
		case <-m.closed:
		}
	}()
	return m
}

// mortal is a connection that ends with its box.
type mortal struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close closes the connection.
func (m *mortal) Close() error {
	m.once.Do(func() { close(m.closed) })
	return m.Conn.Close()
}

// CloseWrite ends one direction, as tunnels do.
func (m *mortal) CloseWrite() error {
	if c, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

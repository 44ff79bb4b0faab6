package itest

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
)

// wire is the way between clients and a broker in this process: it knows requests from their frames and may change what
// is answered. Without a rule everything passes.
type wire struct {
	mu   sync.Mutex
	rule rule
}

// rule sees a response, after its size and correlation id. It may write into it. If it says no, the response is not sent
// and the connection is closed instead: what was asked has been done, and nobody is told.
type rule func(apiKey int16, response []byte) bool

// set makes r see every response. Nil: no rule.
func (w *wire) set(r rule) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rule = r
}

func (w *wire) passes(apiKey int16, response []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rule == nil || w.rule(apiKey, response)
}

// listen is net.Listen with the wire in between.
func (w *wire) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	return &wiredListener{l, w}, nil
}

type wiredListener struct {
	net.Listener
	w *wire
}

func (l *wiredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &wiredConn{Conn: c, w: l.w, asked: map[int32]int16{}}, nil
}

// wiredConn is the broker's end of a connection.
type wiredConn struct {
	net.Conn
	w *wire

	mu    sync.Mutex
	in    frames
	out   frames
	asked map[int32]int16 // correlation id -> api key
}

func (c *wiredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.in.add(p[:n]) {
		if len(f) >= 12 {
			c.asked[int32(binary.BigEndian.Uint32(f[8:]))] = int16(binary.BigEndian.Uint16(f[4:]))
		}
	}
	return n, err
}

func (c *wiredConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.out.add(p) {
		if len(f) >= 8 {
			id := int32(binary.BigEndian.Uint32(f[4:]))
			key := c.asked[id]
			delete(c.asked, id)
			if !c.w.passes(key, f[8:]) {
				return 0, errors.Join(net.ErrClosed, c.Conn.Close())
			}
		}
		if _, err := c.Conn.Write(f); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// frames cuts a stream into frames: four bytes of size, then as many bytes.
type frames struct{ rest []byte }

func (f *frames) add(p []byte) (whole [][]byte) {
	f.rest = append(f.rest, p...)
	for len(f.rest) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(f.rest))
		if len(f.rest) < n {
			break
		}
		whole = append(whole, append([]byte(nil), f.rest[:n]...))
		f.rest = f.rest[n:]
	}
	return whole
}

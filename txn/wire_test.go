package txn

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// wire stands between a client and its brokers and may lose requests and answers, or change answers. The functions run on
// the client's connection goroutines.
type wire struct {
	mu sync.Mutex
	// request is asked before a request is passed on; false loses it, and the connection.
	request func(key kmsg.Key) bool
	// answer may change a whole frame, size included; false loses it, and the connection.
	answer func(key kmsg.Key, frame []byte) bool
}

func (w *wire) set(request func(kmsg.Key) bool, answer func(kmsg.Key, []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.request, w.answer = request, answer
}

func (w *wire) get() (func(kmsg.Key) bool, func(kmsg.Key, []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.request, w.answer
}

func (w *wire) dialer() kgo.Opt {
	return kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, host)
		if err != nil {
			return nil, err
		}
		return &wiredConn{Conn: c, w: w}, nil
	})
}

type wiredConn struct {
	net.Conn
	w    *wire
	mu   sync.Mutex
	keys []kmsg.Key // of requests not yet answered
	out  []byte     // of a request not yet complete
	in   []byte     // of an answer not yet read
}

// errWire is what a connection that breaks looks like to a client: it tries again.
var errWire = io.EOF

func (c *wiredConn) Write(b []byte) (int, error) {
	c.out = append(c.out, b...)
	for len(c.out) >= 4 {
		size := 4 + int(binary.BigEndian.Uint32(c.out))
		if len(c.out) < size {
			break
		}
		frame := c.out[:size]
		c.out = c.out[size:]
		k := kmsg.Key(binary.BigEndian.Uint16(frame[4:]))
		if request, _ := c.w.get(); request != nil && !request(k) {
			_ = c.Conn.Close()
			return 0, errWire
		}
		c.mu.Lock()
		c.keys = append(c.keys, k)
		c.mu.Unlock()
		if _, err := c.Conn.Write(frame); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (c *wiredConn) Read(b []byte) (int, error) {
	if len(c.in) == 0 {
		var size [4]byte
		if _, err := io.ReadFull(c.Conn, size[:]); err != nil {
			return 0, err
		}
		frame := make([]byte, 4+binary.BigEndian.Uint32(size[:]))
		copy(frame, size[:])
		if _, err := io.ReadFull(c.Conn, frame[4:]); err != nil {
			return 0, err
		}
		c.mu.Lock()
		k := c.keys[0]
		c.keys = c.keys[1:]
		c.mu.Unlock()
		if _, answer := c.w.get(); answer != nil && !answer(k, frame) {
			_ = c.Conn.Close()
			return 0, errWire
		}
		c.in = frame
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	return n, nil
}

// setEndTxnCode changes the error code in an EndTxn answer of version 5: size 4, correlation id 4, tags 1, throttle 4, code 2.
func setEndTxnCode(frame []byte, code int16) {
	binary.BigEndian.PutUint16(frame[13:], uint16(code))
}

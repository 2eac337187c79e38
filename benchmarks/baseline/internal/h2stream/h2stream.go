// Package h2stream is one gRPC stream on one connection, on x/net/http2's framer: one goroutine reads, writes
// happen where the caller is. It exists because a thousand grpc-go clients would cost the machine more than the
// server under test; it never multiplexes, compresses or retries.
package h2stream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	streamID = 1
	// window is what the server may send before it hears from us; small enough that a thousand streams fit.
	window = 1 << 20
	// maxMessage bounds one gRPC message.
	maxMessage = 256 << 20
	// readBuffer is per connection; a push of ten endpoints is well below it.
	readBuffer = 8 << 10
	// maxHeaderBytes bounds the header list of an answer.
	maxHeaderBytes = 64 << 10
)

// Target is the server and how to reach it.
type Target struct {
	Address   string
	Authority string
	Path      string
	TLS       *tls.Config // nil: plaintext
}

// Stream is an open stream. Send may be called from any goroutine; Receive from one.
type Stream struct {
	conn    net.Conn
	framer  *http2.Framer
	headers *hpack.Decoder

	partial  []byte // of the message that is arriving
	consumed uint32

	mu            sync.Mutex // guards what follows and every write
	out           *bufio.Writer
	connWindow    int64
	streamWindow  int64
	initialWindow int64
	maxFrame      int64
	waiting       []byte // framed messages that the windows hold back
}

// Open connects and starts the stream with these metadata pairs.
func Open(ctx context.Context, target Target, metadata [][2]string) (*Stream, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.Address)
	if err != nil {
		return nil, err
	}
	if target.TLS != nil {
		secured := tls.Client(conn, target.TLS)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn = secured
	}
	// RFC 9113 6.5.2 and 6.9.2: the windows are 65,535 and a frame 16,384 bytes until the peer says otherwise.
	s := &Stream{conn: conn, connWindow: 65_535, streamWindow: 65_535, initialWindow: 65_535, maxFrame: 16_384}
	s.out = bufio.NewWriterSize(conn, 4<<10)
	s.framer = http2.NewFramer(s.out, bufio.NewReaderSize(conn, readBuffer))
	s.framer.SetReuseFrames()
	s.headers = hpack.NewDecoder(4096, nil)
	s.framer.ReadMetaHeaders = s.headers
	s.framer.MaxHeaderListSize = maxHeaderBytes
	if err := s.start(target, metadata); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stream) start(target Target, metadata [][2]string) error {
	scheme := "http"
	if target.TLS != nil {
		scheme = "https"
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields := append([][2]string{
		{":method", "POST"}, {":scheme", scheme}, {":path", target.Path}, {":authority", target.Authority},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "xdsload"},
	}, metadata...)
	for _, field := range fields {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	_, _ = s.out.WriteString(http2.ClientPreface)
	return errors.Join(
		s.framer.WriteSettings(
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: window},
		),
		s.framer.WriteWindowUpdate(0, window-65_535),
		s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: streamID, BlockFragment: block.Bytes(), EndHeaders: true}),
		s.out.Flush(),
	)
}

// Close closes the connection under the stream.
func (s *Stream) Close() { _ = s.conn.Close() }

// SetReadDeadline bounds the next Receive.
func (s *Stream) SetReadDeadline(at time.Time) error { return s.conn.SetReadDeadline(at) }

// Send sends one message, or keeps it until the server's windows allow it.
func (s *Stream) Send(message []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, 0)
	s.waiting = binary.BigEndian.AppendUint32(s.waiting, uint32(len(message)))
	s.waiting = append(s.waiting, message...)
	return s.flush()
}

// flush writes as much of what waits as the windows allow; s.mu is held.
func (s *Stream) flush() error {
	for len(s.waiting) > 0 {
		n := min(int64(len(s.waiting)), s.connWindow, s.streamWindow, s.maxFrame)
		if n <= 0 {
			break
		}
		if err := s.framer.WriteData(streamID, false, s.waiting[:n]); err != nil {
			return err
		}
		s.connWindow -= n
		s.streamWindow -= n
		s.waiting = s.waiting[n:]
	}
	if len(s.waiting) == 0 {
		s.waiting = nil
	}
	return s.out.Flush()
}

// StatusError is the gRPC status that ended a stream.
type StatusError struct{ Code, Message string }

func (e *StatusError) Error() string { return fmt.Sprintf("grpc-status %s: %s", e.Code, e.Message) }

// Receive returns the next message; it is valid until the next call. A stream that the server ended gives a
// *StatusError.
func (s *Stream) Receive() ([]byte, error) {
	for {
		if message, n := s.whole(); message != nil {
			s.partial = s.partial[n:]
			return message, nil
		}
		if len(s.partial) == 0 {
			s.partial = nil
		}
		frame, err := s.framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		if err := s.take(frame); err != nil {
			return nil, err
		}
	}
}

// whole returns the first complete message of what has arrived, and its framed length.
func (s *Stream) whole() ([]byte, int) {
	if len(s.partial) < 5 {
		return nil, 0
	}
	size := int(binary.BigEndian.Uint32(s.partial[1:5]))
	if len(s.partial) < 5+size {
		return nil, 0
	}
	return s.partial[5 : 5+size : 5+size], 5 + size
}

// take acts on one frame.
func (s *Stream) take(frame http2.Frame) error {
	switch frame := frame.(type) {
	case *http2.DataFrame:
		return s.takeData(frame)
	case *http2.MetaHeadersFrame:
		return s.takeHeaders(frame)
	case *http2.SettingsFrame:
		return s.takeSettings(frame)
	case *http2.WindowUpdateFrame:
		s.mu.Lock()
		defer s.mu.Unlock()
		if frame.StreamID == 0 {
			s.connWindow += int64(frame.Increment)
		} else {
			s.streamWindow += int64(frame.Increment)
		}
		return s.flush()
	case *http2.PingFrame:
		if frame.IsAck() {
			return nil
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return errors.Join(s.framer.WritePing(true, frame.Data), s.out.Flush())
	case *http2.RSTStreamFrame:
		return &StatusError{Code: "reset", Message: frame.ErrCode.String()}
	case *http2.GoAwayFrame:
		if frame.LastStreamID < streamID {
			return &StatusError{Code: "goaway", Message: frame.ErrCode.String()}
		}
	}
	return nil
}

func (s *Stream) takeData(frame *http2.DataFrame) error {
	s.partial = append(s.partial, frame.Data()...)
	if len(s.partial) > maxMessage {
		return fmt.Errorf("message above %d bytes", maxMessage)
	}
	s.consumed += frame.Length
	if s.consumed > window/2 {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := s.consumed
		s.consumed = 0
		if err := errors.Join(s.framer.WriteWindowUpdate(0, n), s.framer.WriteWindowUpdate(streamID, n), s.out.Flush()); err != nil {
			return err
		}
	}
	if frame.StreamEnded() {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (s *Stream) takeHeaders(frame *http2.MetaHeadersFrame) error {
	if frame.StreamEnded() {
		ended := &StatusError{Code: "unknown"}
		for _, field := range frame.Fields {
			switch field.Name {
			case "grpc-status":
				ended.Code = field.Value
			case "grpc-message":
				ended.Message = field.Value
			}
		}
		return ended
	}
	if status := frame.PseudoValue("status"); status != "200" {
		return &StatusError{Code: "http", Message: status}
	}
	return nil
}

func (s *Stream) takeSettings(frame *http2.SettingsFrame) error {
	if frame.IsAck() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if value, ok := frame.Value(http2.SettingInitialWindowSize); ok {
		s.streamWindow += int64(value) - s.initialWindow
		s.initialWindow = int64(value)
	}
	if value, ok := frame.Value(http2.SettingMaxFrameSize); ok {
		s.maxFrame = int64(value)
	}
	if err := s.framer.WriteSettingsAck(); err != nil {
		return err
	}
	return s.flush()
}

package http2

import "encoding/binary"

// headerLen is the length of a frame's header.
const headerLen = 9

// preface is what a client's connection begins with.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frameType is a frame's type.
type frameType uint8

// Frame types of RFC 9113.
const (
	frameData         frameType = 0
	frameHeaders      frameType = 1
	framePriority     frameType = 2
	frameReset        frameType = 3
	frameSettings     frameType = 4
	framePush         frameType = 5
	framePing         frameType = 6
	frameGoAway       frameType = 7
	frameWindow       frameType = 8
	frameContinuation frameType = 9
)

// Flags of frames.
const (
	flagEndStream  = 0x01
	flagAck        = 0x01
	flagEndHeaders = 0x04
	flagPadded     = 0x08
	flagPriority   = 0x20
)

// errorCode is an HTTP/2 error code.
type errorCode uint32

// Error codes of RFC 9113 that the relay uses.
const (
	codeNone        errorCode = 0x0
	codeProtocol    errorCode = 0x1
	codeInternal    errorCode = 0x2
	codeFlow        errorCode = 0x3
	codeClosed      errorCode = 0x5
	codeFrameSize   errorCode = 0x6
	codeRefused     errorCode = 0x7
	codeCancel      errorCode = 0x8
	codeCompression errorCode = 0x9
	codeCalm        errorCode = 0xb
)

// Settings that the relay follows.
const (
	settingTableSize = 1
	settingPush      = 2
	settingStreams   = 3
	settingWindow    = 4
	settingFrameSize = 5
	settingHeadSize  = 6
)

// Bounds of SETTINGS_MAX_FRAME_SIZE; the least is also the default.
const (
	minFrameSize = 1 << 14
	maxFrameSize = 1<<24 - 1
)

// maxStreamID is the highest stream identifier.
const maxStreamID = 1<<31 - 1

// maxWindow is the largest window.
const maxWindow = 1<<31 - 1

// frame is a frame's header.
type frame struct {
	length uint32 // of the payload
	kind   frameType
	flags  uint8
	stream uint32
}

// parseFrame reads a header; b has at least headerLen bytes.
func parseFrame(b []byte) frame {
	_ = b[8]
	return frame{
		length: uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]),
		kind:   frameType(b[3]),
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

func (f frame) has(flag uint8) bool { return f.flags&flag != 0 }

// size is how long the whole frame is.
func (f frame) size() int { return headerLen + int(f.length) }

func appendFrame(dst []byte, length int, kind frameType, flags uint8, stream uint32) []byte {
	dst = append(dst, byte(length>>16), byte(length>>8), byte(length), byte(kind), flags)
	return binary.BigEndian.AppendUint32(dst, stream)
}

func appendGoAway(dst []byte, last uint32, code errorCode, text string) []byte {
	dst = appendFrame(dst, 8+len(text), frameGoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, text...)
}

func appendReset(dst []byte, stream uint32, code errorCode) []byte {
	dst = appendFrame(dst, 4, frameReset, 0, stream)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// appendSetting appends a setting to a SETTINGS frame's payload.
func appendSetting(dst []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, id), value)
}

// appendStreamWindow is appendWindow for a stream.
func appendStreamWindow(dst []byte, stream, increment uint32) []byte {
	dst = appendFrame(dst, 4, frameWindow, 0, stream)
	return binary.BigEndian.AppendUint32(dst, increment)
}

func appendWindow(dst []byte, increment uint32) []byte {
	dst = appendFrame(dst, 4, frameWindow, 0, 0)
	return binary.BigEndian.AppendUint32(dst, increment)
}

// appendHeaders appends a header block as HEADERS and, where it is longer than
// every peer takes in one frame, CONTINUATION frames.
func appendHeaders(dst []byte, stream uint32, flags uint8, block []byte) []byte {
	kind := frameHeaders
	for len(block) > minFrameSize {
		dst = appendFrame(dst, minFrameSize, kind, flags, stream)
		dst = append(dst, block[:minFrameSize]...)
		block, kind, flags = block[minFrameSize:], frameContinuation, 0
	}
	dst = appendFrame(dst, len(block), kind, flags|flagEndHeaders, stream)
	return append(dst, block...)
}

// dependsOnItself tells whether the priority that a whole PRIORITY or HEADERS
// frame states, whose payload p begins with, is by its own stream.
func dependsOnItself(f frame, p []byte) bool {
	if f.has(flagPadded) && f.kind == frameHeaders {
		p = p[1:]
	}
	return binary.BigEndian.Uint32(p)&maxStreamID == f.stream
}

// fragment returns a HEADERS frame's part of the header block: its payload
// without padding and priority. ok is false where they do not fit.
func fragment(f frame, payload []byte) (block []byte, ok bool) {
	if f.has(flagPadded) {
		if len(payload) < 1 || len(payload) < 1+int(payload[0]) {
			return nil, false
		}
		payload = payload[1 : len(payload)-int(payload[0])]
	}
	if f.has(flagPriority) {
		if len(payload) < 5 {
			return nil, false
		}
		payload = payload[5:]
	}
	return payload, true
}

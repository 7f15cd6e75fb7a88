package http2

// fieldName is a header field name that the relay looks for, or fieldOther.
type fieldName uint8

const (
	fieldOther fieldName = iota
	fieldMethod
	fieldAuthority
	fieldPath
	fieldProtocol
	fieldStatus
	fieldHost
	fieldContentType
	fieldTraceparent
	fieldGRPCStatus
	fieldScheme
	fieldLength
	fieldTE
	// fieldHop are the names that HTTP/2 forbids.
	fieldHop
)

// nameOf classifies a name.
func nameOf(name []byte) fieldName {
	switch string(name) { // does not allocate
	case ":method":
		return fieldMethod
	case ":authority":
		return fieldAuthority
	case ":path":
		return fieldPath
	case ":protocol":
		return fieldProtocol
	case ":status":
		return fieldStatus
	case "host":
		return fieldHost
	case "content-type":
		return fieldContentType
	case "traceparent":
		return fieldTraceparent
	case "grpc-status":
		return fieldGRPCStatus
	case ":scheme":
		return fieldScheme
	case "content-length":
		return fieldLength
	case "te":
		return fieldTE
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return fieldHop
	}
	return fieldOther
}

// staticFields is how many entries the static table has.
const staticFields = 61

// staticTable is RFC 7541 appendix A; index 1 is the first entry.
var staticTable = [staticFields]struct {
	name, value string
	id          fieldName
}{
	{":authority", "", fieldAuthority},
	{":method", "GET", fieldMethod},
	{":method", "POST", fieldMethod},
	{":path", "/", fieldPath},
	{":path", "/index.html", fieldPath},
	{":scheme", "http", fieldScheme},
	{":scheme", "https", fieldScheme},
	{":status", "200", fieldStatus},
	{":status", "204", fieldStatus},
	{":status", "206", fieldStatus},
	{":status", "304", fieldStatus},
	{":status", "400", fieldStatus},
	{":status", "404", fieldStatus},
	{":status", "500", fieldStatus},
	{"accept-charset", "", fieldOther},
	{"accept-encoding", "gzip, deflate", fieldOther},
	{"accept-language", "", fieldOther},
	{"accept-ranges", "", fieldOther},
	{"accept", "", fieldOther},
	{"access-control-allow-origin", "", fieldOther},
	{"age", "", fieldOther},
	{"allow", "", fieldOther},
	{"authorization", "", fieldOther},
	{"cache-control", "", fieldOther},
	{"content-disposition", "", fieldOther},
	{"content-encoding", "", fieldOther},
	{"content-language", "", fieldOther},
	{"content-length", "", fieldLength},
	{"content-location", "", fieldOther},
	{"content-range", "", fieldOther},
	{"content-type", "", fieldContentType},
	{"cookie", "", fieldOther},
	{"date", "", fieldOther},
	{"etag", "", fieldOther},
	{"expect", "", fieldOther},
	{"expires", "", fieldOther},
	{"from", "", fieldOther},
	{"host", "", fieldHost},
	{"if-match", "", fieldOther},
	{"if-modified-since", "", fieldOther},
	{"if-none-match", "", fieldOther},
	{"if-range", "", fieldOther},
	{"if-unmodified-since", "", fieldOther},
	{"last-modified", "", fieldOther},
	{"link", "", fieldOther},
	{"location", "", fieldOther},
	{"max-forwards", "", fieldOther},
	{"proxy-authenticate", "", fieldOther},
	{"proxy-authorization", "", fieldOther},
	{"range", "", fieldOther},
	{"referer", "", fieldOther},
	{"refresh", "", fieldOther},
	{"retry-after", "", fieldOther},
	{"server", "", fieldOther},
	{"set-cookie", "", fieldOther},
	{"strict-transport-security", "", fieldOther},
	{"transfer-encoding", "", fieldHop},
	{"user-agent", "", fieldOther},
	{"vary", "", fieldOther},
	{"via", "", fieldOther},
	{"www-authenticate", "", fieldOther},
}

// Sizes of dynamic tables, in bytes.
const (
	defaultTable = 4096    // until a SETTINGS_HEADER_TABLE_SIZE says otherwise
	maxTable     = 1 << 16 // announcements above are lowered to this in passing
	entryCost    = 32      // what RFC 7541 adds to each entry's name and value
)

// tableEntry is one field of a dynamic table.
type tableEntry struct {
	position    uint32 // of the name in data, in bytes since the beginning
	name, value uint32 // lengths
	id          fieldName
}

// dynamicTable is the dynamic table of RFC 7541. Names and values stand one
// behind the other, oldest first, in an array that is compacted as it fills,
// so that in the steady state nothing is allocated.
type dynamicTable struct {
	data []byte
	base uint32 // position of data[0]; wraps around
	// ring holds count entries, the oldest at first; its length is a power
	// of two.
	ring         []tableEntry
	first, count int
	size, max    uint32 // as RFC 7541 counts
	state        uint32 // another one whenever the table changes
}

// get returns the entry of index i, 1 being the newest. The bytes are valid
// until the next insert.
func (t *dynamicTable) get(i int) (name, value []byte, id fieldName) {
	e := &t.ring[(t.first+t.count-i)&(len(t.ring)-1)]
	start := e.position - t.base
	middle := start + e.name
	return t.data[start:middle], t.data[middle : middle+e.value], e.id
}

// resize sets the maximum, evicting what no longer fits.
func (t *dynamicTable) resize(max uint32) {
	if t.max != max {
		t.max = max
		t.state++
	}
	t.evict(0)
}

// evict drops the oldest entries until need more bytes fit.
func (t *dynamicTable) evict(need uint32) {
	for t.count > 0 && t.size+need > t.max {
		e := &t.ring[t.first]
		t.size -= e.name + e.value + entryCost
		t.first = (t.first + 1) & (len(t.ring) - 1)
		t.count--
		t.state++
	}
}

// insert adds an entry. name and value must not point into the table.
func (t *dynamicTable) insert(name, value []byte, id fieldName) {
	if len(name)+len(value) > maxTable {
		t.evict(t.max + 1)
		return
	}
	need := uint32(len(name)+len(value)) + entryCost
	t.evict(need)
	if need > t.max {
		return
	}
	if t.count == len(t.ring) {
		t.growRing()
	}
	if len(t.data)+len(name)+len(value) > cap(t.data) {
		t.compact(len(name) + len(value))
	}
	e := &t.ring[(t.first+t.count)&(len(t.ring)-1)]
	*e = tableEntry{t.base + uint32(len(t.data)), uint32(len(name)), uint32(len(value)), id}
	t.data = append(append(t.data, name...), value...)
	t.count++
	t.size += need
	t.state++
}

func (t *dynamicTable) growRing() {
	ring := make([]tableEntry, max(8, 2*len(t.ring)))
	for i := range t.count {
		ring[i] = t.ring[(t.first+i)&(len(t.ring)-1)]
	}
	t.ring, t.first = ring, 0
}

// compact moves the live bytes to the front of an array that has room for need
// more, and for as much again, so that it happens seldom.
func (t *dynamicTable) compact(need int) {
	live := t.data[len(t.data):]
	if t.count > 0 {
		live = t.data[t.ring[t.first].position-t.base:]
	}
	t.base += uint32(len(t.data) - len(live))
	if want := 2 * (len(live) + need); want > cap(t.data) {
		t.data = append(make([]byte, 0, max(256, want)), live...)
		return
	}
	t.data = t.data[:copy(t.data[:cap(t.data)], live)]
}

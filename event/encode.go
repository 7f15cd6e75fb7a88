package event

import "encoding/binary"

// Encode appends the batch with a header to dst. The encoder's events stay as
// they are: encoding again gives the same.
func (e *Encoder) Encode(dst []byte, h *Header) []byte {
	dst = e.appendHeader(dst, h)
	if e.count == 0 && e.summaries == 0 {
		return dst
	}
	if e.work == nil {
		e.work = new(Workspace)
	}
	defer e.work.release()
	e.work.words.gather(&e.strings)
	rank := e.work.words.ranks
	dst = e.work.appendStrings(dst)
	dst = e.appendSection(dst, fieldRoutes, len(e.routes), e.routeColumns[:], rank,
		1<<routeMethod|1<<routeAuthority|1<<routePath)
	dst = e.appendPeers(dst, rank)
	dst = e.appendSection(dst, fieldConnections, len(e.connStates), e.connColumns[:], rank, 1<<connReason)
	dst = e.appendSection(dst, fieldOutcomes, len(e.outcomes), e.outcomeColumns[:], rank, 1<<outcomeError)
	dst = e.appendExchanges(dst)
	if e.count > 0 {
		dst = e.appendEvents(dst, h.Sent)
	}
	return e.appendSummaries(dst)
}

func (e *Encoder) appendHeader(dst []byte, h *Header) []byte {
	dst = append(dst, fieldInstance<<3|wireFixed64)
	dst = binary.LittleEndian.AppendUint64(dst, h.Instance)
	dst = appendUint(dst, fieldSequence, h.Sequence)
	dst = appendUint(dst, fieldSent, uint64(h.Sent))
	dst = appendUint(dst, fieldProduced, h.Produced)
	dst = appendUint(dst, fieldShed, h.Shed)
	dst = appendUint(dst, fieldOpenConnections, h.OpenConnections)
	if h.Final {
		dst = appendUint(dst, fieldFinal, 1)
	}
	dst = appendString(dst, fieldVersion, e.strings.clean(h.Version))
	dst = appendTag(dst, fieldSource, wireBytes)
	at := len(dst)
	s := &h.Source
	for i, text := range [...]string{
		s.Workload.Cluster, s.Workload.Namespace, s.Workload.Kind, s.Workload.Name, s.Pod, s.Node,
	} {
		dst = appendString(dst, fieldCluster+i, e.strings.clean(text))
	}
	return endField(dst, at)
}

// begin begins a section.
func begin(dst []byte, field, count int) ([]byte, int) {
	dst = appendTag(dst, field, wireBytes)
	at := len(dst)
	return appendUint(dst, fieldCount, uint64(count)), at
}

// appendSection writes a dictionary. Bit i of refs tells that column i holds
// numbers of strings.
func (e *Encoder) appendSection(dst []byte, field, n int, columns []column, rank []uint32, refs uint) []byte {
	dst, at := begin(dst, field, n)
	dst = e.appendColumns(dst, n, columns, rank, refs)
	return endField(dst, at)
}

func (e *Encoder) appendColumns(dst []byte, n int, columns []column, rank []uint32, refs uint) []byte {
	for i := range columns {
		if columns[i].any == 0 {
			continue
		}
		s := source{data: columns[i].data, n: n, mode: either}
		if refs>>i&1 != 0 {
			// Strings are numbered as they come: mostly, the next is one more.
			s.rank, s.mode = rank, changes
		}
		dst = e.work.packer.append(dst, fieldColumn+i, s)
	}
	return dst
}

func (e *Encoder) appendPeers(dst []byte, rank []uint32) []byte {
	dst, at := begin(dst, fieldPeers, len(e.peers))
	dst = e.appendColumns(dst, len(e.peers), e.peerColumns[:], rank, 1<<peerFlags-1<<peerCluster)
	if len(e.peerIPs) > 0 {
		dst = appendBytes(dst, fieldPeerIP, e.peerIPs)
	}
	dst = e.work.packer.append(dst, fieldPeerIPv4, source{data: e.peerIPv4.data, n: len(e.peers), mode: either})
	return endField(dst, at)
}

func (e *Encoder) appendExchanges(dst []byte) []byte {
	n := len(e.exchanges)
	dst, at := begin(dst, fieldExchanges, n)
	for i := range e.exchangeColumns {
		s := source{data: e.exchangeColumns[i].data, n: n, mode: either}
		if i == exchangeRoute {
			s.mode = changes
		}
		dst = e.work.packer.append(dst, fieldColumn+i, s)
	}
	return endField(dst, at)
}

// appendEvents writes the events, which end at times relative to sent, and where
// there are to be any their sums.
func (e *Encoder) appendEvents(dst []byte, sent int64) []byte {
	dst, at := begin(dst, fieldEvents, e.count)
	sums := e.summing(sent)
	for i := range e.columns {
		s := source{data: e.columns[i].data, n: e.count}
		var values []uint64
		if i == eventEnd {
			s.mode, s.first = changed, uint64(e.firstEnd-sent)
		}
		if i == eventEnd || e.columns[i].any != 0 {
			dst = e.work.packer.append(dst, fieldColumn+i, s)
			values = e.work.packer.values // as they were, for in these modes nothing changes them
		}
		if sums != nil && !sums.take(i, values) {
			sums = nil
		}
	}
	if n := len(e.traceIDs) / 16; n > 0 {
		dst = e.work.packer.append(dst, fieldTraceRow, source{data: e.traced.data, n: n, mode: changes})
		dst = appendBytes(dst, fieldTraceID, e.traceIDs)
	}
	dst = endField(dst, at)
	if sums != nil {
		dst = e.appendSums(dst, sums)
	}
	return dst
}

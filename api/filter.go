package api

import (
	"errors"

	"github.com/weirmesh/weir/aggregator/match"
	"github.com/weirmesh/weir/api/weirpb"
)

// tapFilter is what a tap asks for: the fields of its own and those of its
// filter.
func tapFilter(req *weirpb.TapRequest) (*match.Matcher, error) {
	own, err := matcher("", &weirpb.Filter{
		To:        req.GetTo(),
		From:      req.GetFrom(),
		Method:    req.GetMethod(),
		Authority: req.GetAuthority(),
		Path:      req.GetPath(),
		Status:    req.GetStatus(),
		Direction: req.GetDirection(),
	})
	if err != nil || req.GetFilter() == nil {
		return own, err
	}
	more, err := matcher("filter.", req.GetFilter())
	if err != nil {
		return nil, err
	}
	return match.All(own, more), nil
}

// Matcher compiles a filter as the server does for a request's. The error is a
// gRPC status whose message begins with the name of the field.
func Matcher(f *weirpb.Filter) (*match.Matcher, error) { return matcher("", f) }

// matcher compiles a filter; prefix is where its fields are in the request.
func matcher(prefix string, f *weirpb.Filter) (*match.Matcher, error) {
	to, err := peer(prefix+"to", f.GetTo())
	if err != nil {
		return nil, err
	}
	from, err := peer(prefix+"from", f.GetFrom())
	if err != nil {
		return nil, err
	}
	m, err := match.Compile(&match.Filter{
		Method:     f.GetMethod(),
		Path:       f.GetPath(),
		Authority:  f.GetAuthority(),
		Status:     f.GetStatus(),
		GRPCStatus: f.GetGrpcStatus(),
		Latency:    f.GetLatency(),
		Duration:   f.GetDuration(),
		Bytes:      f.GetBytes(),
		Pod:        f.GetPod(),
		TLS:        f.GetTls(),
		Fate:       f.GetFate(),
		Protocol:   f.GetProtocol(),
		Error:      f.GetError(),
		Direction:  f.GetDirection(),
		To:         to,
		From:       from,
		Where:      f.GetWhere(),
		Not:        f.GetNot(),
	})
	var bad *match.Error
	if errors.As(err, &bad) {
		return nil, invalid(prefix+bad.Field, "%s", bad.Reason)
	}
	return m, err
}

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/api/weirpb"
)

func newBusDiagnostics(a *app) *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use:   "bus",
		Short: "Show the bus's streams, and how far the aggregators are behind",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			mesh, err := c.Mesh(cmd.Context(), &weirpb.MeshRequest{})
			if err != nil {
				return callError("ask how the bus does", err)
			}
			if mesh.GetBus() == nil {
				return errors.New("the API server does not watch the bus, as that of `weir demo`")
			}
			out, err := renderBus(mesh, format)
			if err == nil {
				err = a.write(out)
			}
			if why := mesh.GetBus().GetError(); err == nil && why != "" {
				err = fmt.Errorf("cannot tell all of the bus: %s", clean(why))
			}
			return err
		},
	}
	outputFlag(cmd, &format, outputTable, outputJSON)
	return cmd
}

// busJSON is the JSON output.
type busJSON struct {
	Version     string         `json:"version"`
	Streams     []streamJSON   `json:"streams"`
	Aggregators aggregatorJSON `json:"aggregators"`
}

type streamJSON struct {
	Name            string     `json:"name"`
	Exists          bool       `json:"exists"`
	Messages        uint64     `json:"messages"`
	Bytes           uint64     `json:"bytes"`
	Oldest          *time.Time `json:"oldest"`
	Newest          *time.Time `json:"newest"`
	Replicas        uint32     `json:"replicas"`
	ReplicasCurrent uint32     `json:"replicas_current"`
	Leader          string     `json:"leader"`
}

type aggregatorJSON struct {
	Answered          uint32 `json:"answered"`
	Total             uint32 `json:"total"`
	PartitionsMissing uint32 `json:"partitions_missing"`
	PartitionsTotal   uint32 `json:"partitions_total"`
	// BehindSeconds is of the partition that is the most behind.
	BehindSeconds float64 `json:"behind_seconds"`
}

func renderBus(m *weirpb.MeshResponse, format output) ([]byte, error) {
	b, a := m.GetBus(), m.GetAggregators()
	var behind time.Duration
	for _, lag := range b.GetLags() {
		behind = max(behind, lag.GetBehind().AsDuration())
	}
	if format == outputJSON {
		out := busJSON{Version: b.GetVersion(), Aggregators: aggregatorJSON{
			a.GetAnswered(), a.GetTotal(), a.GetPartitionsMissing(), a.GetPartitionsTotal(), behind.Seconds(),
		}}
		for _, s := range b.GetStreams() {
			row := streamJSON{
				Name: s.GetName(), Exists: s.GetExists(), Messages: s.GetMessages(), Bytes: s.GetBytes(),
				Replicas: s.GetReplicas(), ReplicasCurrent: s.GetReplicasCurrent(), Leader: s.GetLeader(),
			}
			if s.GetOldest() != nil {
				oldest, newest := s.GetOldest().AsTime(), s.GetNewest().AsTime()
				row.Oldest, row.Newest = &oldest, &newest
			}
			out.Streams = append(out.Streams, row)
		}
		return renderOne(out)
	}
	t := &table{left: 1}
	t.add("STREAM", "MESSAGES", "BYTES", "OLDEST", "NEWEST", "REPLICAS", "LEADER")
	for _, s := range b.GetStreams() {
		if !s.GetExists() {
			t.add(s.GetName(), "missing", none, none, none, none, none)
			continue
		}
		oldest, newest := none, none
		if s.GetOldest() != nil {
			oldest, newest = stampUTC(s.GetOldest().AsTime()), stampUTC(s.GetNewest().AsTime())
		}
		t.add(s.GetName(), fmt.Sprint(s.GetMessages()), fmt.Sprint(s.GetBytes()), oldest, newest,
			fmt.Sprintf("%d/%d", s.GetReplicasCurrent(), s.GetReplicas()), orNone(s.GetLeader()))
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "nats-server %s\n\n%s\n", orNone(b.GetVersion()), t.render())
	fmt.Fprintf(&out, "Aggregators: %d of %d answer, for %d of %d parts of the events, at most %s behind.\n",
		a.GetAnswered(), a.GetTotal(), a.GetPartitionsTotal()-a.GetPartitionsMissing(), a.GetPartitionsTotal(), behind.Round(time.Millisecond))
	return out.Bytes(), nil
}

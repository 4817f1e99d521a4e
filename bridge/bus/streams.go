package bus

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names are the bridge's names on the bus, made from its prefix.
type Names struct{ prefix string }

// NewNames makes the names for a prefix such as "bridge".
func NewNames(prefix string) Names { return Names{prefix} }

func (n Names) upper() string { return strings.ToUpper(n.prefix) }

// Events is the stream of everything that comes in.
func (n Names) Events() string { return n.upper() + "_EVENTS" }

// Results is the stream of outcomes.
func (n Names) Results() string { return n.upper() + "_RESULTS" }

// Dead is the stream of what was given up on.
func (n Names) Dead() string { return n.upper() + "_DEAD" }

// Wait is the stream of pairs that were set aside.
func (n Names) Wait() string { return n.upper() + "_WAIT" }

// Ledger is the stream behind the ledger's bucket.
func (n Names) Ledger() string { return "KV_" + n.upper() + "_LEDGER" }

// room is the stream that exists while it is found out how much room there is.
func (n Names) room() string { return n.upper() + "_ROOM" }

// Inbox is where NATS answers a bridge, and ToolInbox where it answers our
// commands: who may listen there hears nothing of anybody else.
func (n Names) Inbox() string { return "_INBOX." + n.prefix }

// ToolInbox is described with Inbox.
func (n Names) ToolInbox() string { return "_INBOX." + n.prefix + "-tool" }

// EventSubject is where an event of a type is stored; a type may hold anything,
// a subject may not.
func (n Names) EventSubject(eventType string) string {
	return n.prefix + ".events." + subjectSafe(eventType)
}

// ResultSubject is where a result goes.
func (n Names) ResultSubject(action, state string) string {
	return n.prefix + ".results." + token(action) + "." + state
}

// DeadSubject is where a dead letter goes; route may be empty.
func (n Names) DeadSubject(route, reason string) string {
	if route == "" {
		route = "_"
	}
	return n.prefix + ".dead." + token(route) + "." + reason
}

// WaitSubject is where a pair that waits for a connection is kept. There is one
// subject for each pair, so that a pair set aside twice is kept once.
func (n Names) WaitSubject(connection, key string) string {
	return n.prefix + ".wait." + connectionToken(connection) + "." + key
}

// Durable names the durable consumer of a source.
func (n Names) Durable(source string) string { return n.prefix + "-" + token(source) }

// noConnection is the token of pairs whose action picks its own connection.
const noConnection = "_"

// connectionToken makes one subject token of a connection's name, and different
// tokens of different names.
func connectionToken(name string) string {
	if name == "" {
		return noConnection
	}
	if name == noConnection || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return "=" + hex.EncodeToString([]byte(name)) // no plain name begins with that
	}
	return name
}

func plain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// token makes one subject token of s.
func token(s string) string {
	if s == "" {
		return "_"
	}
	return strings.Map(func(r rune) rune {
		if plain(r) {
			return r
		}
		return '_'
	}, s)
}

// subjectSafe keeps the dots of s and makes a token of everything between them.
func subjectSafe(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
	}
	parts := strings.Split(s, ".")
	for i := range parts {
		parts[i] = token(parts[i])
	}
	return strings.Join(parts, ".")
}

// Shares of the streams in the storage that is reserved. The dead letters' is the largest share of what
// an event needs, so that the intake fills and refuses before they do (R20).
const (
	eventsUnits  = 2
	resultsUnits = 2
	deadUnits    = 2
	waitUnits    = 1
	// ageShare is how long our streams keep a message, as a share of the ledger's
	// retention: it must be less than what the ledger remembers (R12).
	ageShare        = 0.85
	duplicateWindow = 2 * time.Minute
	// repeatWindow is that of the stream of events: 8x8 posts a webhook for the fifth time
	// 131 s after the first, and waits for up to 5 s for each answer. The server keeps the
	// ids of that long in memory: some 110 bytes for each event from a webhook.
	repeatWindow = 4 * time.Minute
	smallest     = 64 << 20
)

// Room finds out how much storage can be reserved for all of the bridge's
// streams together: want bytes, or the largest half of a half of it that the
// server and the account have left. It asks by making a stream of that size,
// since no other question has this answer. The stream is small then, and release
// removes it once others are there: a server that is left without any removes
// its folder in the background, under the feet of who makes the next.
//
// Replicas that ask at once make the one stream, and get the one answer: what
// they will make with it is one, too. The error is errAsked while another
// replica, with another answer, is about to make the streams.
func (c *Conn) Room(ctx context.Context, n Names, want int64, replicas int) (room int64, release func() error, err error) {
	probe := jetstream.StreamConfig{
		Name: n.room(), Subjects: []string{n.prefix + ".room"}, Storage: jetstream.FileStorage,
		MaxBytes: want + 1, Replicas: max(1, replicas), // it keeps one byte for itself
		Description: "bridge8x8: is there room for its streams?",
	}
	release = func() error { return c.removeStream(ctx, probe.Name) }
	for {
		_, err := c.JS.CreateStream(ctx, probe)
		switch {
		case err == nil:
			room, small := probe.MaxBytes-1, probe
			small.MaxBytes = 1
			if _, err = c.JS.UpdateStream(ctx, small); err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
				return room, release, nil // or another replica has come this far, and further
			}
			// A cluster that several ask at once promises more than it has, and then
			// refuses even that one takes less.
			if gone := release(); gone != nil || !NoRoom(err) || probe.MaxBytes <= smallest {
				return 0, nil, fmt.Errorf("reserve %d bytes for streams: %w", probe.MaxBytes, errors.Join(err, gone))
			}
			probe.MaxBytes /= 2
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
			if err := c.askedLongAgo(ctx, probe.Name); err != nil {
				return 0, nil, err
			}
		case NoRoom(err) && probe.MaxBytes > smallest:
			probe.MaxBytes /= 2
		default:
			return 0, nil, fmt.Errorf("reserve %d bytes for streams: %w", probe.MaxBytes, err)
		}
	}
}

// errAsked says that another replica is finding out how much room there is.
var errAsked = errors.New("another replica is about to make the streams")

// askLimit is how long a question for room can take; what is left of an older one
// was left by a replica that died.
const askLimit = 30 * time.Second

// askedLongAgo removes what is left of a question for room that nobody asks any more.
func (c *Conn) askedLongAgo(ctx context.Context, name string) error {
	st, err := c.JS.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return errAsked // just done
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	if info := st.CachedInfo(); info.TimeStamp.Sub(info.Created) < askLimit {
		return errAsked
	}
	return c.removeStream(ctx, name)
}

func (c *Conn) removeStream(ctx context.Context, name string) error {
	if err := c.JS.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove stream %s: %w", name, err)
	}
	return nil
}

// Exists says whether a stream is there.
func (c *Conn) Exists(ctx context.Context, stream string) (bool, error) {
	_, err := c.JS.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Streams are the bridge's streams, all but the ledger's. unit is what one share
// is, in bytes.
func (n Names) Streams(retention time.Duration, replicas int, unit int64) []jetstream.StreamConfig {
	age := time.Duration(float64(retention) * ageShare)
	streams := []jetstream.StreamConfig{
		{Name: n.Events(), Subjects: []string{n.AllEvents()}, MaxBytes: eventsUnits, MaxAge: age, Description: "bridge8x8: everything that comes in"},
		{Name: n.Results(), Subjects: []string{n.AllResults()}, MaxBytes: resultsUnits, MaxAge: age, Description: "bridge8x8: outcomes"},
		{Name: n.Dead(), Subjects: []string{n.AllDead()}, MaxBytes: deadUnits, Description: "bridge8x8: what was given up on"},
		// An acknowledged pair leaves the stream: nothing else ever would, and once full it refuses (R10).
		{Name: n.Wait(), Subjects: []string{n.prefix + ".wait.>"}, MaxBytes: waitUnits, MaxMsgsPerSubject: 1, Retention: jetstream.WorkQueuePolicy, Description: "bridge8x8: pairs that wait"},
	}
	for i := range streams {
		s := &streams[i]
		s.MaxBytes *= unit
		s.Metadata = map[string]string{formatMetadata: streamFormat}
		s.Storage, s.Discard, s.Duplicates, s.Replicas = jetstream.FileStorage, jetstream.DiscardNew, duplicateWindow, max(1, replicas)
		if s.Name == n.Events() {
			s.Duplicates = repeatWindow
		}
		s.Duplicates = min(s.Duplicates, nonzero(s.MaxAge))
	}
	return streams
}

// EnsureStreams makes the bridge's streams where they are missing. A stream that
// is there is left as it is, as long as its subjects fit, but for the window in
// which the stream of events drops repeats. unit is what one share is, in bytes.
func (c *Conn) EnsureStreams(ctx context.Context, n Names, retention time.Duration, replicas int, unit int64) error {
	for _, s := range n.Streams(retention, replicas, unit) {
		if err := c.ensureStream(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func nonzero(d time.Duration) time.Duration {
	if d == 0 {
		return repeatWindow
	}
	return d
}

// widen gives a stream of events that is there the window that 8x8's repeats need.
// Without the right to it, what is posted again late is stored twice, and handled
// once all the same.
func (c *Conn) widen(ctx context.Context, have jetstream.Stream) error {
	cfg := have.CachedInfo().Config
	want := min(repeatWindow, nonzero(cfg.MaxAge))
	if cfg.Duplicates >= want {
		return nil
	}
	cfg.Duplicates = want
	if _, err := c.JS.UpdateStream(ctx, cfg); err != nil {
		if Passing(err) {
			return fmt.Errorf("stream %s: %w", cfg.Name, err)
		}
		c.log.Warn("a stream drops repeats for a shorter time than 8x8 repeats its webhooks for",
			"stream", cfg.Name, "window", have.CachedInfo().Config.Duplicates, "wanted", want, "error", err)
	}
	return nil
}

func (c *Conn) ensureStream(ctx context.Context, s jetstream.StreamConfig) error {
	have, err := c.JS.Stream(ctx, s.Name)
	for err != nil {
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("stream %s: %w", s.Name, err)
		}
		_, err = c.JS.CreateStream(ctx, s)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // another replica was quicker
			have, err = c.JS.Stream(ctx, s.Name)
		case NoRoom(err) && s.MaxBytes > smallest:
			s.MaxBytes /= 2
			err = jetstream.ErrStreamNotFound
		case overlaps(err):
			return fmt.Errorf("stream %s: its subjects %s belong to stream %s already: give this bridge another BRIDGE_PREFIX, or remove that stream's subjects",
				s.Name, strings.Join(s.Subjects, ", "), c.ownerOf(ctx, s.Subjects[0]))
		default:
			return fmt.Errorf("make stream %s: %w", s.Name, err)
		}
	}
	if err := newerLayout(&have.CachedInfo().Config); err != nil {
		return err
	}
	got := have.CachedInfo().Config.Subjects
	for _, want := range s.Subjects {
		if !slices.Contains(got, want) {
			return fmt.Errorf("stream %s exists with subjects %s, and the bridge needs %s in it", s.Name, strings.Join(got, ", "), want)
		}
	}
	if s.Duplicates > duplicateWindow {
		return c.widen(ctx, have)
	}
	return nil
}

// formatMetadata is where a stream says which version of its layout it has:
// subjects, and what a message on them means. What single messages hold has
// versions of its own; see bridge.Format.
const (
	formatMetadata = "bridge8x8-format"
	streamFormat   = "1"
)

// newerLayout says why a stream cannot be used whose layout is not known here.
func newerLayout(s *jetstream.StreamConfig) error {
	if f := s.Metadata[formatMetadata]; f != "" && f != streamFormat {
		return fmt.Errorf("stream %s has format %q, and this bridge knows %q: run a newer bridge", s.Name, f, streamFormat)
	}
	return nil
}

func overlaps(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == 10065
}

// NoRoom says whether a stream was refused because the server or the account
// has not as much storage left as was asked for (codes 10047, 10028, 10023). A
// cluster says that no node is suitable (10005), and why only in the text.
func NoRoom(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == 10047 || api.ErrorCode == 10028 || api.ErrorCode == 10023 || api.ErrorCode == 10046 ||
		api.ErrorCode == 10005 && strings.Contains(api.Description, "insufficient storage"))
}

func (c *Conn) ownerOf(ctx context.Context, subject string) string {
	for _, name := range c.streamNames(ctx, jetstream.WithStreamListSubject(subject)) {
		return name
	}
	return "(one that this user may not list)"
}

// streamNames are those that there are, as far as this user may know: they only
// make a message better.
func (c *Conn) streamNames(ctx context.Context, o ...jetstream.StreamListOpt) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for name := range c.JS.StreamNames(ctx, o...).Name() {
		names = append(names, name)
	}
	return names
}

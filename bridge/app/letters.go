package app

import (
	"context"
	"errors"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bus"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ledger"
)

// Letter is one dead letter; see bus.Letter.
type Letter = bus.Letter

// LetterFilter says which dead letters are meant; see bus.LetterFilter.
type LetterFilter = bus.LetterFilter

// The answers about dead letters that are no failures.
var (
	ErrNoLetter     = bus.ErrNoLetter
	ErrLetterGone   = bus.ErrLetterGone
	ErrOriginalGone = bus.ErrOriginalGone
)

func (c *Client) box() *bus.Letters {
	return &bus.Letters{Conn: c.conn, Names: c.names}
}

// Letters reads the dead letters that the filter takes, the oldest first.
func (c *Client) Letters(ctx context.Context, f LetterFilter) (letters []Letter, err error) {
	err = c.conn.Permitted(ctx, func(ctx context.Context) (err error) {
		letters, err = c.box().List(ctx, f)
		return err
	})
	return letters, err
}

// LetterFile is all that is known about a dead letter.
type LetterFile struct {
	Letter
	// Header and Data are the message that the event came in; Gone says that it was
	// too large for the letter, and has left its stream since.
	Header map[string][]string
	Data   []byte
	Gone   bool
	Event  *cloudevent.Event // nil if it is gone, or none
	// Record is what the ledger knows of the pair, and Next of the decision about
	// this very letter; nil where it knows nothing (any more).
	Record, Next *bridge.Record
}

// Letter reads everything about one dead letter. Errors: ErrNoLetter, ErrLetterGone.
func (c *Client) Letter(ctx context.Context, id uint64) (f *LetterFile, err error) {
	err = c.conn.Permitted(ctx, func(ctx context.Context) (err error) {
		f, err = c.letter(ctx, id)
		return err
	})
	return f, err
}

func (c *Client) letter(ctx context.Context, id uint64) (*LetterFile, error) {
	box := c.box()
	l, err := box.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	f := &LetterFile{Letter: l}
	f.Header, f.Data, err = box.Original(ctx, &l)
	switch {
	case errors.Is(err, ErrOriginalGone):
		f.Gone = true
	case err != nil:
		return nil, err
	default:
		if e, err := cloudevent.FromNATS(f.Header, f.Data); err == nil {
			f.Event = &e
		}
	}
	if l.Key == "" {
		return f, nil
	}
	known, err := ledger.Peek(ctx, c.conn.JS, c.prefix)
	if errors.Is(err, bridge.ErrNotFound) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	if f.Record, err = record(ctx, known, bridge.NewKey(l.Key.Event(), l.Route, l.Replay)); err != nil {
		return nil, err
	}
	f.Next, err = record(ctx, known, bridge.NewKey(l.Key.Event(), l.Route, l.Replay+1))
	return f, err
}

func record(ctx context.Context, l *ledger.Ledger, key bridge.Key) (*bridge.Record, error) {
	e, err := l.Get(ctx, key)
	if errors.Is(err, bridge.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &e.Record, nil
}

// Decisions are made over the dead letters as they were at one time.
type Decisions struct {
	// Letters are all that there were, the oldest first.
	Letters []Letter
	box     *bus.Letters
	asked   time.Time
	same    func(*Letter) []uint64
	done    map[uint64]bool
}

// Decisions reads all dead letters, so that some can be decided about.
func (c *Client) Decisions(ctx context.Context) (*Decisions, error) {
	d := &Decisions{box: c.box(), done: map[uint64]bool{}}
	err := c.conn.Permitted(ctx, func(ctx context.Context) (err error) {
		if d.asked, err = d.box.Now(ctx); err == nil {
			d.Letters, err = d.box.List(ctx, LetterFilter{})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	d.same = bus.Same(d.Letters)
	return d, nil
}

// Find finds a letter. Errors: ErrNoLetter, ErrLetterGone.
func (d *Decisions) Find(ctx context.Context, id uint64) (Letter, error) {
	for _, l := range d.Letters {
		if l.ID == id {
			return l, nil
		}
	}
	var l Letter
	err := d.box.Conn.Permitted(ctx, func(ctx context.Context) (err error) {
		l, err = d.box.Get(ctx, id)
		return err
	})
	return l, err
}

// Replay asks for one more handling of a letter's event by its one route, and
// Discard says that there will be none (rule R11). A running bridge does it; the
// letter is gone at once. Errors: ErrLetterGone where somebody was quicker.
func (d *Decisions) Replay(ctx context.Context, l *Letter) error { return d.decide(ctx, l, false) }

// Discard is what Replay says.
func (d *Decisions) Discard(ctx context.Context, l *Letter) error { return d.decide(ctx, l, true) }

func (d *Decisions) decide(ctx context.Context, l *Letter, discard bool) error {
	if d.done[l.ID] {
		return nil // with another letter of the same pair
	}
	same := d.same(l)
	err := d.box.Conn.Permitted(ctx, func(ctx context.Context) error { return d.box.Decide(ctx, l.ID, same, d.asked, discard) })
	if err != nil {
		return err
	}
	for _, id := range same {
		d.done[id] = true
	}
	return nil
}

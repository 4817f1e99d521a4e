package app

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bridge8x8/bridge8x8/config"
	"github.com/bridge8x8/bridge8x8/handlers"
	"github.com/bridge8x8/bridge8x8/handlers/catalog"
)

// The actions that routes run are those that are known (built in, or written
// down by actions sync), with what the connections offer laid over them once
// Membrane has told. A start waits for that only where a route is a mistake by
// what is known, and then not for long.
const (
	discoverLimit = 4 * time.Second  // of a start or a reload that would fail without
	discoverEvery = 10 * time.Minute // when all is well
	discoverFirst = time.Second      // after trouble, and doubled from there
	discoverMost  = time.Minute
)

// discovery is what is known of the connections' actions. App.mu guards it.
type discovery struct {
	synced  map[string]handlers.Actions
	written [sha256.Size]byte           // of what synced is made of
	offers  Synced                      // as they were told last
	sum     [sha256.Size]byte           // of offers
	fitted  map[string]*catalog.Catalog // what was offered when every route of the connection still fitted
	told    string                      // what was logged last
	asked   chan struct{}               // to ask again at once
}

// known is what a table is compiled with.
func (d *discovery) known() map[string]handlers.Actions {
	all := map[string]handlers.Actions{}
	maps.Copy(all, d.synced)
	for connection, offers := range d.offers {
		at := all[connection]
		if at.Known == nil {
			at.Known = catalog.Builtin()
		}
		at.Live = at.Known.Overlay(offers)
		if fitted := d.fitted[connection]; fitted != nil {
			at.Known = fitted
		}
		all[connection] = at
	}
	return all
}

// compile makes the table of a file with what is known by now.
func (a *App) compile(file *config.File) (*handlers.Table, config.Problems) {
	known := a.discovery.known()
	for _, one := range ToAsk(file, &a.o.Env) {
		at := known[one.Name]
		if at.Known == nil {
			at.Known = a.catalog
		}
		at.Later = true
		known[one.Name] = at
	}
	return handlers.Compile(file, a.catalog, handlers.Options{
		Commands: a.o.Env.Bridge.Commands, DefaultConnection: a.o.Env.Membrane.Connection, Actions: known,
	})
}

// curable says that what the connections offer may make a difference.
func curable(problems config.Problems) bool {
	return slices.ContainsFunc(problems, func(p config.Problem) bool {
		return p.Code == "unknown-action" || p.Code == "action-not-known" || p.Code == "input-unsatisfiable" || p.Code == "action-changed"
	})
}

// aboutActions are the problems that are the service's, and not the file's.
func aboutActions(problems config.Problems) config.Problems {
	return slices.DeleteFunc(slices.Clone(problems), func(p config.Problem) bool { return !strings.HasPrefix(p.Code, "action-") })
}

// take adopts what was told of some connections, and says whether that changes
// anything.
func (d *discovery) take(offered Synced) bool {
	all := Synced{}
	maps.Copy(all, d.offers)
	maps.Copy(all, offered)
	encoded, err := all.Encode()
	if err != nil {
		return false
	}
	sum := sha256.Sum256(encoded)
	changed := d.offers == nil || sum != d.sum
	d.offers, d.sum = all, sum
	return changed
}

// fits notes for which connections every route fits what is offered now.
func (d *discovery) fits(table *handlers.Table, known map[string]handlers.Actions) {
	held := map[string]bool{}
	for _, h := range table.Handlers() {
		held[h.Connection] = held[h.Connection] || h.Problem != ""
	}
	for connection, at := range known {
		if at.Live != nil && !held[connection] {
			d.fitted[connection] = at.Live
		}
	}
}

// discover follows what the connections offer until ctx ends.
func (a *App) discover(ctx context.Context) {
	wait := discoverFirst
	for {
		next := discoverEvery
		if well := a.rediscover(ctx); well {
			wait = discoverFirst
		} else {
			next, wait = wait, min(2*wait, discoverMost)
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.discovery.asked:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// rediscover asks once, and takes over what has changed. well is false where it is
// worth asking again soon.
func (a *App) rediscover(ctx context.Context) (well bool) {
	a.mu.Lock()
	file := a.file
	a.mu.Unlock()
	offered, err := Ask(ctx, a.client, ToAsk(file, &a.o.Env))
	if ctx.Err() != nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if file != a.file {
		return false // reloaded meanwhile: other connections, or other actions of them
	}
	if len(offered) > 0 && a.discovery.take(offered) {
		table, problems := a.compile(file)
		if problems.Errors() {
			a.log.Error("what the connections offer cannot be used; the routes stay as they are", "problems", problems.Error())
			return false
		}
		a.discovery.fits(table, a.discovery.known())
		a.put(file, table)
		a.tellActions(problems)
	}
	asked := "" // what could not be asked
	if err != nil {
		asked = err.Error()
	}
	if was := a.unasked.Swap(&asked); asked != "" && (was == nil || *was != asked) {
		a.log.Warn("what the connections offer could not be asked; what is known of it stays in use", "error", asked)
	}
	return err == nil && *a.held.Load() == ""
}

// tellActions tells the operator, once, which routes wait for the service or for
// a change of the configuration.
func (a *App) tellActions(problems config.Problems) {
	var lines []string
	problems = aboutActions(problems)
	for _, p := range problems {
		lines = append(lines, p.String())
	}
	held := strings.Join(lines, "; ")
	a.held.Store(&held)
	if held == a.discovery.told {
		return
	}
	a.discovery.told = held
	for _, p := range problems {
		a.log.Error("an action is not as a route needs it", "code", p.Code, "problem", p.Msg, "place", p.Pos.String(), "hint", p.Hint)
	}
	if held == "" {
		a.log.Info("all actions are as the routes need them")
	}
}

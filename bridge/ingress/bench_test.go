package ingress_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/ingress"
	"github.com/bridge8x8/bridge8x8/config"
)

type forget struct{}

func (forget) Accept(context.Context, []cloudevent.Message) error { return nil }

// BenchmarkEvents is what the handler itself costs, without a connection and
// without a store.
func BenchmarkEvents(b *testing.B) {
	h, err := ingress.New(ingress.Options{Accept: forget{}, Tokens: []config.Secret{"first-token", "second-token"}})
	if err != nil {
		b.Fatal(err)
	}
	body := one("1", "com.acme.order.shipped", `"`+strings.Repeat("x", 600)+`"`)
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/events", strings.NewReader(body))
		r.Header.Set("Content-Type", structured)
		r.Header.Set("Authorization", "Bearer second-token")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			b.Fatal(w.Body)
		}
	}
}

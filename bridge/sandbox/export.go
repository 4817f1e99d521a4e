package sandbox

import (
	"crypto/rand"
	"encoding/csv"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// export is a log export that was asked for. Its state follows from the time.
type export struct {
	subAccountID string
	createdAt    time.Time
	rows         []*message
	cancelled    bool
}

// exportResult. source: 8x8 sms_api.json, get-log-export-job-result.
type exportResult struct {
	Status  string   `json:"status"`
	Data    []string `json:"data,omitempty"`
	Expires string   `json:"expires,omitempty"`
}

func (a *account) requestExport(x *exchange) (int, any, bool, *vendorError) {
	var r struct {
		SubAccountID string   `json:"subAccountId"`
		From         string   `json:"from"`
		To           string   `json:"to"`
		PhoneNumber  string   `json:"phoneNumber"`
		Countries    []string `json:"countries"`
		Limit        int      `json:"limit"`
	}
	if failed := read(x.input, &r, &r.SubAccountID); failed != nil {
		return 0, nil, false, failed
	}
	now := a.server.opts.Now().UTC()
	today := now.Truncate(24 * time.Hour)
	from, to := today.AddDate(0, 0, -7), today.AddDate(0, 0, 1)
	for _, bound := range []struct {
		text string
		into *time.Time
		last bool
	}{{r.From, &from, false}, {r.To, &to, true}} {
		if bound.text == "" {
			continue
		}
		at, ok := exportTime(bound.text, bound.last)
		if !ok {
			return 0, nil, false, refused(1000, "Invalid parameter: from and to are dates or date-times")
		}
		*bound.into = at
	}
	switch {
	case !from.Before(to):
		return 0, nil, false, refused(1010, "from must be before to")
	case r.Limit < 0:
		return 0, nil, false, refused(1010, "limit is out of range")
	case r.PhoneNumber != "" && !msisdnPattern.MatchString(r.PhoneNumber):
		return 0, nil, false, refused(1002, "Invalid MSISDN format: not an E.164 international number")
	case slices.ContainsFunc(r.Countries, func(c string) bool { return !countryPattern.MatchString(c) }):
		return 0, nil, false, refused(1009, "Invalid country")
	}
	number := ""
	if r.PhoneNumber != "" {
		number = "+" + strings.TrimPrefix(r.PhoneNumber, "+")
	}
	job := &export{subAccountID: r.SubAccountID, createdAt: now}
	var random [32]byte
	_, _ = rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range a.order {
		if m.subAccountID != r.SubAccountID || m.createdAt.Before(from) || !m.createdAt.Before(to) ||
			number != "" && m.phone() != number ||
			len(r.Countries) > 0 && !slices.ContainsFunc(r.Countries, func(c string) bool { return strings.EqualFold(c, m.country) }) {
			continue
		}
		if r.Limit > 0 && len(job.rows) == r.Limit {
			break
		}
		job.rows = append(job.rows, m)
	}
	a.exports[id] = job
	return http.StatusAccepted, map[string]string{"jobId": id}, true, nil
}

// exportTime reads a bound: a date stands for its first moment, as the last
// bound for its end.
func exportTime(text string, last bool) (time.Time, bool) {
	if at, err := time.Parse(time.DateOnly, text); err == nil {
		if last {
			at = at.AddDate(0, 0, 1)
		}
		return at, true
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// phone is the number at the other end.
func (m *message) phone() string {
	if m.inbound {
		return m.source
	}
	return m.destination
}

// state is queued, running, and then empty or succeeded.
func (e *export) state(now time.Time, step time.Duration) string {
	switch age := now.Sub(e.createdAt); {
	case e.cancelled:
		return "cancelled"
	case age < step:
		return "queued"
	case age < 2*step:
		return "running"
	case len(e.rows) == 0:
		return "empty"
	default:
		return "succeeded"
	}
}

func (a *account) exportResult(x *exchange) (int, any, bool, *vendorError) {
	var r struct {
		SubAccountID string `json:"subAccountId"`
		JobID        string `json:"jobId"`
	}
	if failed := read(x.input, &r, &r.SubAccountID); failed != nil {
		return 0, nil, false, failed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	job, ok := a.exports[r.JobID]
	if !ok || job.subAccountID != r.SubAccountID {
		return 0, nil, false, &vendorError{status: http.StatusNotFound, code: 4018, message: "Export job not found"}
	}
	answer := exportResult{Status: job.state(a.server.opts.Now(), a.server.opts.ReceiptDelay)}
	if answer.Status == "succeeded" {
		answer.Data = []string{"http://" + x.host + "/8x8/api/v1/subaccounts/" + job.subAccountID + "/messages/download/" + r.JobID}
		answer.Expires = timestamp(job.createdAt.AddDate(0, 1, 0)) // links live a month
	}
	return http.StatusOK, answer, false, nil
}

// exportColumns. source: 8x8 sms_api.json, the log export's CSV.
var exportColumns = strings.Split("umid,subaccountid,direction,country,operator,mcc,mnc,status_value,status_details,status_errorcode,"+
	"status_errormessage,status_timestamp,msisdn,source,encoding,createdat,smscount,price_currency,price_persms,price_total,"+
	"clientmessageid,clientbatchid,batchid,body", ",")

// downloadExport serves the file that an export's link leads to.
func (s *Server) downloadExport(w http.ResponseWriter, r *http.Request) {
	a := s.world.Load().account
	now := s.opts.Now()
	a.mu.Lock()
	job, ok := a.exports[r.PathValue("jobId")]
	ok = ok && job.subAccountID == r.PathValue("subAccountId") && job.state(now, s.opts.ReceiptDelay) == "succeeded"
	a.mu.Unlock()
	if !ok {
		writeJSON(w, http.StatusNotFound, map[string]any{
			"code": 4018, "message": "Export job not found", "errorId": newUUID(), "timestamp": timestamp(now),
		})
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	file := csv.NewWriter(w)
	_ = file.Write(exportColumns)
	for _, m := range job.rows {
		d := m.details(now)
		direction, code := "1", ""
		if m.inbound {
			direction = "0"
		}
		if d.Status.ErrorCode != 0 {
			code = strconv.Itoa(d.Status.ErrorCode)
		}
		_ = file.Write([]string{
			d.Umid, d.SubAccountID, direction, d.Country, "", "", "", d.Status.State, d.Status.Detail, code,
			d.Status.ErrorMessage, d.Status.Timestamp, d.Msisdn, d.Source, d.Encoding, d.CreatedAt, strconv.Itoa(d.SMSCount),
			d.Price.Currency, d.Price.PerSMS.String(), d.Price.Total.String(),
			deref(d.ClientMessageID), deref(d.ClientBatchID), d.BatchID, d.Body,
		})
	}
	file.Flush()
}

// deref is the value, or the zero value where there is none.
func deref[T any](value *T) (zero T) {
	if value == nil {
		return zero
	}
	return *value
}

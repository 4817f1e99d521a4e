package catalog

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nyaruka/phonenumbers"
)

func TestPhoneNumber(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ number, region, want, broken string }{
		// as E.164, with and without the plus
		{"+12025550101", "", "+12025550101", ""},
		{"12025550101", "", "+12025550101", ""},
		{"+6581110001", "", "+6581110001", ""},
		{"6581110099", "", "+6581110099", ""},
		{"+390612345678", "", "+390612345678", ""},
		{"+80012345678", "", "+80012345678", ""},
		// as people write them
		{" +1 (202) 555-0101 ", "", "+12025550101", ""},
		{"(+65) 8111 0001", "", "+6581110001", ""},
		{"(65) 8111 0001", "", "+6581110001", ""},
		{"1.202.555.0101", "", "+12025550101", ""},
		{"+44 (0)7700 900123", "", "+447700900123", ""},
		{"+4407700900123", "", "+447700900123", ""},
		{"\u202a+65\u00a08111\u20110001\u202c", "", "+6581110001", ""},
		{"＋６５８１１１０００１", "", "+6581110001", ""},
		// national
		{"81110001", "SG", "+6581110001", ""},
		{"(202) 555-0101", "US", "+12025550101", ""},
		{"1 202 555 0101", "US", "+12025550101", ""},
		{"07700 900123", "GB", "+447700900123", ""},
		{"06 1234 5678", "IT", "+390612345678", ""},
		{"6581110001", "SG", "+6581110001", ""},
		{"+12025550101", "SG", "+12025550101", ""},
		{"+12025550101", "AQ", "+12025550101", ""},
		// what no number can look like
		{"", "", "", "must not be empty"},
		{"  ", "SG", "", "must not be empty"},
		{"+", "", "", "is not a phone number"},
		{"ACME", "", "", "is not a phone number"},
		{"1-800-FLOWERS", "US", "", "is not a phone number"},
		{"tel:+12025550101", "", "", "is not a phone number"},
		{"+12025550101, +12025550102", "", "", "is not a phone number"},
		{"+12025550101/12025550102", "", "", "is too long for a phone number of its country"},
		{"12025550101+", "", "", "is not a phone number"},
		{"+1 202 555 0101 x5", "", "", "is not a phone number"},
		{"+12025550101#5", "", "", "is not a phone number"},
		{"+1 202 555 0101 ~ 55", "", "", "is a phone number with an extension, which cannot get a text message"},
		{"02025550101", "", "", "must start with + and the country calling code, or come with the field country"},
		{"0065 8111 0001", "", "", "must start with + and the country calling code, or come with the field country"},
		{"+02025550101", "", "", "does not start with a country calling code that is in use"},
		{"+99912345678", "", "", "does not start with a country calling code that is in use"},
		{"+1202555", "", "", "is too short for a phone number of its country"},
		{"+1", "", "", "is not a phone number"},
		{"+120255501011", "", "", "is too long for a phone number of its country"},
		{"5550101", "US", "", "is a phone number without its area code"},
		{"81110001", "UK", "", "must be the ISO 3166-1 code of a country with phone numbers, such as SG"},
		{"123", "SG", "", "is too short for a phone number of its country"},
		{"+658111000", "", "", "is too short for a phone number of its country"},
		{strings.Repeat("1", 300), "", "", "is too long for a phone number of its country"},
	} {
		e164, broken := phoneNumber(test.number, test.region)
		if e164 != test.want || broken != test.broken {
			t.Errorf("%q in %q: got %q, %q; want %q, %q", test.number, test.region, e164, broken, test.want, test.broken)
		}
	}
}

// The numbers that examples and the sandbox use.
func TestExampleNumbersPass(t *testing.T) {
	t.Parallel()
	for i := range 100 {
		for _, number := range []string{fmt.Sprintf("+120255501%02d", i), fmt.Sprintf("+65811100%02d", i)} {
			if got, broken := phoneNumber(number, ""); got != number {
				t.Errorf("%s: got %q, %q", number, got, broken)
			}
		}
	}
}

// byLibrary is what the library alone makes of a number.
func byLibrary(number string) (e164 string, possible bool) {
	parsed, err := phonenumbers.Parse(number, "")
	if err != nil || phonenumbers.IsPossibleNumberWithReason(parsed) != phonenumbers.IS_POSSIBLE {
		return "", false
	}
	return phonenumbers.Format(parsed, phonenumbers.E164), true
}

func comparePlain(t *testing.T, number string) {
	t.Helper()
	if !plainE164(number) {
		return
	}
	if e164, possible := byLibrary(number); !possible || e164 != number {
		t.Errorf("%s taken as it is; the library makes %q of it (possible: %t)", number, e164, possible)
	}
}

// Every calling code, with beginnings that national prefixes have.
func TestPlainE164AgreesWithLibrary(t *testing.T) {
	t.Parallel()
	plain := 0
	for code := 1; code < 1000; code++ {
		if phonenumbers.GetRegionCodeForCountryCode(code) == "ZZ" {
			continue
		}
		for start := range 100 {
			number := fmt.Sprintf("+%d%02d%s", code, start, "23456789012"[:5+(start+code)%5])
			comparePlain(t, number)
			if plainE164(number) {
				plain++
			}
		}
	}
	if plain < 4_000 {
		t.Errorf("only %d numbers were taken as they are: the short way is not taken", plain)
	}
}

func TestPlainE164TakesCommonNumbers(t *testing.T) {
	t.Parallel()
	for _, number := range []string{"+12025550101", "+6581110001", "+447700900123", "+81312345678", "+5511912345678"} {
		if !plainE164(number) {
			t.Errorf("%s goes through the parser", number)
		}
	}
}

func FuzzPhoneNumber(f *testing.F) {
	f.Add("+12025550101", "")
	f.Add("+4407700900123", "")
	f.Add("+5491123456789", "")
	f.Add("81110001", "SG")
	f.Add("+52 1 55 1234 5678", "MX")
	f.Fuzz(func(t *testing.T, number, region string) {
		comparePlain(t, number)
		e164, broken := phoneNumber(number, region)
		if (e164 == "") == (broken == "") {
			t.Fatalf("got %q and %q", e164, broken)
		}
		if broken != "" {
			return
		}
		digits := strings.TrimLeft(e164[1:], "0123456789")
		if e164[0] != '+' || e164[1] == '0' || digits != "" || len(e164) < 8 || len(e164) > 16 {
			t.Fatalf("%q is not what 8x8 takes", e164)
		}
	})
}

func BenchmarkPhoneNumber(b *testing.B) {
	for _, bench := range []struct{ name, number, region string }{
		{"e164", "+12025550101", ""},
		{"international", "6581110001", ""},
		{"national", "81110001", "SG"},
		{"formatted", "+1 (202) 555-0101", ""},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				phoneNumber(bench.number, bench.region)
			}
		})
	}
	b.Run("library alone, e164", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			byLibrary("+12025550101")
		}
	})
}

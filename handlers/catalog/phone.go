package catalog

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/nyaruka/phonenumbers"
)

// 8x8 takes 7 to 15 digits without a leading zero, with or without the plus.
// source: 8x8 sms_api.json, contacts_api.json.
const minDigits, maxDigits = 7, 15

// Rules that a phone number can break. Whether a number is in use nobody can
// know here, and the numbering plans in the library age: only what no number of
// that country can look like is refused.
const (
	notNumber    = "is not a phone number"
	noInitial    = "must start with + and the country calling code"
	noCountry    = "must start with + and the country calling code, or come with the field country"
	badCountry   = "must be the ISO 3166-1 code of a country with phone numbers, such as SG"
	badCalling   = "does not start with a country calling code that is in use"
	tooShort     = "is too short for a phone number of its country"
	tooLong      = "is too long for a phone number of its country"
	noArea       = "is a phone number without its area code"
	noSuchLength = "has a length that no phone number of its country has"
	badDigits    = "must have 7 to 15 digits with its country calling code"
	extension    = "is a phone number with an extension, which cannot get a text message"
)

// phoneNumber turns a number into E.164 with its plus. A number without a plus is
// read as a national one of the region (ISO 3166-1 alpha-2); without a region it
// is read as an international one, as 8x8 does. It returns the rule that is
// broken, or "".
func phoneNumber(number, region string) (e164, broken string) {
	if plainE164(number) {
		return number, ""
	}
	if strings.ContainsFunc(number, invisible) {
		number = strings.Map(func(r rune) rune {
			if invisible(r) {
				return -1
			}
			return r
		}, number)
	}
	number = strings.TrimSpace(number)
	if number == "" {
		return "", "must not be empty"
	}
	digits, plus := 0, false
	for _, r := range number {
		switch {
		case unicode.IsDigit(r):
			digits++
		case r == '+' || r == '＋':
			if plus || digits > 0 {
				return "", notNumber
			}
			plus = true
		case unicode.IsSpace(r), unicode.Is(unicode.Pd, r), strings.ContainsRune("()[]./~", r):
		default: // letters too: nobody dials a text message on a keypad
			return "", notNumber
		}
	}
	if digits == 0 {
		return "", notNumber
	}
	if plus {
		region = ""
	} else if region == "" {
		number = strings.TrimLeftFunc(number, func(r rune) bool { return !unicode.IsDigit(r) })
		if number[0] == '0' {
			return "", noCountry
		}
		number = "+" + number
		if plainE164(number) {
			return number, ""
		}
	}
	if region != "" && phonenumbers.GetCountryCodeForRegion(region) == 0 {
		return "", badCountry
	}
	parsed, err := phonenumbers.Parse(number, region)
	switch {
	case err == nil:
	case errors.Is(err, phonenumbers.ErrInvalidCountryCode):
		return "", badCalling
	case errors.Is(err, phonenumbers.ErrNumTooLong):
		return "", tooLong
	case errors.Is(err, phonenumbers.ErrTooShortNSN), errors.Is(err, phonenumbers.ErrTooShortAfterIDD):
		return "", tooShort
	default:
		return "", notNumber
	}
	if parsed.GetExtension() != "" {
		return "", extension
	}
	switch phonenumbers.IsPossibleNumberWithReason(parsed) {
	case phonenumbers.IS_POSSIBLE:
	case phonenumbers.IS_POSSIBLE_LOCAL_ONLY:
		return "", noArea
	case phonenumbers.TOO_SHORT:
		return "", tooShort
	case phonenumbers.TOO_LONG:
		return "", tooLong
	case phonenumbers.INVALID_COUNTRY_CODE:
		return "", badCalling
	default:
		return "", noSuchLength
	}
	e164 = phonenumbers.Format(parsed, phonenumbers.E164)
	if n := len(e164) - 1; n < minDigits || n > maxDigits {
		return "", badDigits
	}
	return e164, ""
}

// plainE164 tells whether a number is already what the library would make of it.
// Parsing costs thirty times as much as the library's check of a parsed number,
// and most numbers come as E.164. So a number is taken apart here where that
// needs no knowledge: a plus, a calling code, and digits that do not start with
// what the library could take for a national prefix. Everything else, and every
// refusal, is for the library's parser. FuzzPhoneNumber holds the two together.
func plainE164(number string) bool {
	if len(number) < minDigits+1 || len(number) > maxDigits+1 || number[0] != '+' || number[1] == '0' {
		return false
	}
	for i := 1; i < len(number); i++ {
		if number[i] < '0' || number[i] > '9' {
			return false
		}
	}
	plans := numberPlans()
	code := 0
	for i := 1; i <= phonenumbers.MAX_LENGTH_COUNTRY_CODE; i++ {
		code = code*10 + int(number[i]-'0')
		plan := plans[code]
		if plan == nil {
			continue
		}
		national := number[i+1:]
		if national[0] == '0' || plan.mayHavePrefix(national) {
			return false
		}
		significant, err := strconv.ParseUint(national, 10, 64)
		if err != nil {
			return false
		}
		countryCode := int32(code)
		return phonenumbers.IsPossibleNumberWithReason(&phonenumbers.PhoneNumber{
			CountryCode:    &countryCode,
			NationalNumber: &significant,
		}) == phonenumbers.IS_POSSIBLE
	}
	return false
}

// numberPlan is what the library knows about the numbers of a calling code.
type numberPlan struct {
	prefix  string // a pattern of what may stand before a national number
	compile sync.Once
	pattern *regexp.Regexp // nil: unusable
}

func (p *numberPlan) mayHavePrefix(national string) bool {
	if p.prefix == "" {
		return false
	}
	p.compile.Do(func() { p.pattern, _ = regexp.Compile("^(?:" + p.prefix + ")") })
	return p.pattern == nil || p.pattern.MatchString(national)
}

// numberPlans finds a plan by calling code. A country code that several
// countries share has the plan of its main country, as in the library.
var numberPlans = sync.OnceValue(func() *[1000]*numberPlan {
	var plans [1000]*numberPlan
	all, err := phonenumbers.MetadataCollection()
	if err != nil {
		return &plans // every number is left to the parser
	}
	for _, region := range all.GetMetadata() {
		code := int(region.GetCountryCode())
		if code > 0 && code < len(plans) && region.GetId() == phonenumbers.GetRegionCodeForCountryCode(code) {
			plans[code] = &numberPlan{prefix: region.GetNationalPrefixForParsing()}
		}
	}
	return &plans
})

// invisible characters, such as direction marks, come along with copied numbers.
func invisible(r rune) bool { return unicode.Is(unicode.Cf, r) }

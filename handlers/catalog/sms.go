package catalog

// The encodings of a text message, as 8x8 names them.
const (
	encodingGSM7 = "GSM7"
	encodingUCS2 = "UCS2"
	// encodingMixed is for a batch whose messages do not all have the same one.
	encodingMixed = "MIXED"
)

// MaxParts is how many parts 8x8 sends of one message; it cuts off the rest.
// source: 8x8 send-sms-api-reference.md.
const MaxParts = 10

// harmlessBytes is a length in bytes that no text of MaxParts parts or fewer
// needs counting for: 670 UTF-16 units make ten parts of UCS-2, and as many
// GSM 03.38 extension characters make nine of GSM-7.
const harmlessBytes = 670

// Parts counts the parts in which 8x8 sends a text, each of which it bills.
// encoding is GSM7 or UCS2; anything else is 8x8's default, AUTO: GSM-7 if every
// character is in GSM 03.38, else UCS-2. An empty text has no parts.
//
// A GSM-7 part holds 160 septets, or 153 where there are several, and a UCS-2
// part 70 UTF-16 units, or 67; a character that takes two is never split between
// parts, so a part may be left one short. Where GSM7 is asked for, a character
// outside of it counts as one septet: what 8x8 does with it is not documented.
func Parts(text, encoding string) SMS {
	gsm, ucs := packer{single: 160, several: 153}, packer{single: 70, several: 67}
	isGSM := true
	for _, r := range text {
		var septets uint8
		switch {
		case int(r) < len(gsmSeptets):
			septets = gsmSeptets[r]
		case r == '€':
			septets = 2
		}
		if septets == 0 {
			isGSM, septets = false, 1
		}
		gsm.add(int(septets))
		if r > 0xFFFF {
			ucs.add(2)
		} else {
			ucs.add(1)
		}
	}
	switch encoding {
	case encodingGSM7:
		isGSM = true
	case encodingUCS2:
		isGSM = false
	}
	if isGSM {
		return SMS{Encoding: encodingGSM7, SMSCount: gsm.parts()}
	}
	return SMS{Encoding: encodingUCS2, SMSCount: ucs.parts()}
}

// packer fills parts with characters, in order.
type packer struct {
	single, several int // what one part holds, alone and among several
	total           int
	full, used      int // full parts, and what is used of the one after them
}

func (p *packer) add(size int) {
	p.total += size
	if p.used+size > p.several {
		p.full++
		p.used = 0
	}
	p.used += size
}

func (p *packer) parts() int {
	switch {
	case p.total == 0:
		return 0
	case p.total <= p.single:
		return 1
	}
	return p.full + 1
}

// gsmSeptets is how many septets a character takes in GSM 03.38; 0 if it is not
// in it. The euro sign lies beyond the table. source: 3GPP TS 23.038, 6.2.1.
var gsmSeptets = func() (table [0x3AA]uint8) {
	for _, r := range "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ" +
		" !\"#¤%&'()*+,-./0123456789:;<=>?" +
		"¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§" +
		"¿abcdefghijklmnopqrstuvwxyzäöñüà" {
		table[r] = 1
	}
	for _, r := range "\f^{}\\[~]|" {
		table[r] = 2
	}
	return table
}()

package bus

import (
	"context"
	"fmt"
)

// SinkDurable is the consumer of what is posted to the sink from one of our
// streams. No source can have its name. What it holds is bounded, so that a sink
// that takes nothing has few messages out.
func (n Names) SinkDurable(stream string) Durable {
	d := Durable{Name: n.prefix + "_sink", Stream: stream, MaxAckPending: 1024}
	if stream == n.Events() {
		d.Subjects = n.FromWebhooks()
	}
	return d
}

// FromWebhooks match the subjects of the events that 8x8's webhooks become, and
// not those of commands, whose types begin alike.
func (n Names) FromWebhooks() []string {
	var subjects []string
	for _, family := range []string{"sms.>", "chat.>", "whatsapp.>", "voice.>", "contactcenter.>", "video.>", "unrecognized"} {
		subjects = append(subjects, n.prefix+".events.com.8x8."+family)
	}
	return subjects
}

// Behind is how many messages a consumer has still to get acknowledged.
func (c *Conn) Behind(ctx context.Context, d Durable) (int, error) {
	consumer, err := c.JS.Consumer(ctx, d.Stream, d.Name)
	if err != nil {
		return 0, fmt.Errorf("consumer %s of stream %s: %w", d.Name, d.Stream, err)
	}
	info := consumer.CachedInfo()
	return info.NumAckPending + int(min(info.NumPending, 1<<31)), nil
}

package app

import (
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
	"github.com/bridge8x8/bridge8x8/config"
)

// CheckBuild reports what the environment asks for that this build leaves out:
// the image's, which is made with the tag slim.
func CheckBuild(e *config.Env) config.Problems {
	if !e.NATS.Embedded() || natsd.Included {
		return nil
	}
	return config.Problems{{
		Level: config.LevelError, Code: "not-in-this-build",
		Msg:  "NATS_URL is \"embedded\", and this build has no NATS server in it: it was made with the tag slim, as the image is",
		Hint: "name a server, such as nats://127.0.0.1:4222, or use a build without that tag: a package's or an archive's, or an image built with TAGS=",
	}}
}

// Package admin is the operator's listener: whether the process lives, whether
// it can work, and its metrics.
package admin

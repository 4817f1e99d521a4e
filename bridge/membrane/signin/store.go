package signin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/filelock"
	"github.com/bridge8x8/bridge8x8/config"
)

// Credentials are what a sign-in leaves behind.
type Credentials struct {
	// APIURL is the service that they are good for, and are never sent to another.
	APIURL       string
	WorkspaceKey string // the default one; may be empty
	TenantKey    string // likewise
	Email        string
	// Tenant says that the token was asked for one tenant (login --tenant).
	Tenant bool
	// ExpiresAt is when AccessToken ends; zero if that is not known.
	ExpiresAt    time.Time
	AccessToken  config.Secret
	RefreshToken config.Secret // empty if there is none

	ClientID           string
	TokenEndpoint      string
	RevocationEndpoint string // empty if there is none
}

// Pending is a sign-in that waits for its code.
type Pending struct {
	Credentials // as far as they are known

	URL      string        // that a person has to open
	Issuer   string        // of the authorization server
	Redirect string        // where the browser is sent with the code
	State    config.Secret // which comes back with the code
	Verifier config.Secret // of PKCE
	Until    time.Time
	needIss  bool
}

// ErrNone says that nobody has signed in.
var ErrNone = errors.New("nobody has signed in on this machine")

// Store is the folder that keeps a sign-in. Its files are for the user alone,
// are written as a whole or not at all, and are shared by all of the user's
// processes.
type Store struct{ dir string }

// UserStore is the one in the user's configuration folder.
func UserStore() (Store, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return Store{}, fmt.Errorf("there is no folder for your sign-in: %w", err)
	}
	return Store{filepath.Join(dir, "bridge8x8")}, nil
}

// NewStore is a store in a folder of the caller's choice.
func NewStore(dir string) Store { return Store{dir} }

// Path is the file with the credentials.
func (s Store) Path() string { return filepath.Join(s.dir, "credentials.json") }

func (s Store) pendingPath() string { return filepath.Join(s.dir, "pending.json") }

// credentialsFile is Credentials as they are stored: the one place where the
// secrets are written out.
type credentialsFile struct {
	APIURL             string     `json:"apiUrl"`
	WorkspaceKey       string     `json:"workspaceKey,omitempty"`
	TenantKey          string     `json:"tenantKey,omitempty"`
	Email              string     `json:"email,omitempty"`
	Tenant             bool       `json:"tenant,omitempty"`
	ExpiresAt          *time.Time `json:"expiresAt,omitempty"`
	AccessToken        string     `json:"accessToken,omitempty"`
	RefreshToken       string     `json:"refreshToken,omitempty"`
	ClientID           string     `json:"clientId"`
	TokenEndpoint      string     `json:"tokenEndpoint"`
	RevocationEndpoint string     `json:"revocationEndpoint,omitempty"`
}

type pendingFile struct {
	credentialsFile
	URL      string    `json:"url"`
	Issuer   string    `json:"issuer"`
	Redirect string    `json:"redirect"`
	State    string    `json:"state"`
	Verifier string    `json:"verifier"`
	Until    time.Time `json:"until"`
	NeedIss  bool      `json:"needIss,omitempty"`
}

func (c *Credentials) file() credentialsFile {
	f := credentialsFile{
		APIURL: c.APIURL, WorkspaceKey: c.WorkspaceKey, TenantKey: c.TenantKey, Email: c.Email, Tenant: c.Tenant,
		AccessToken: c.AccessToken.Reveal(), RefreshToken: c.RefreshToken.Reveal(),
		ClientID: c.ClientID, TokenEndpoint: c.TokenEndpoint, RevocationEndpoint: c.RevocationEndpoint,
	}
	if !c.ExpiresAt.IsZero() {
		at := c.ExpiresAt.UTC()
		f.ExpiresAt = &at
	}
	return f
}

func (f *credentialsFile) credentials() Credentials {
	c := Credentials{
		APIURL: f.APIURL, WorkspaceKey: f.WorkspaceKey, TenantKey: f.TenantKey, Email: f.Email, Tenant: f.Tenant,
		AccessToken: config.Secret(f.AccessToken), RefreshToken: config.Secret(f.RefreshToken),
		ClientID: f.ClientID, TokenEndpoint: f.TokenEndpoint, RevocationEndpoint: f.RevocationEndpoint,
	}
	if f.ExpiresAt != nil {
		c.ExpiresAt = *f.ExpiresAt
	}
	return c
}

// Load reads the credentials. It fails with ErrNone where there are none.
func (s Store) Load() (Credentials, error) {
	var f credentialsFile
	if err := s.read(s.Path(), &f); err != nil {
		return Credentials{}, err
	}
	if f.AccessToken == "" || f.APIURL == "" {
		return Credentials{}, fmt.Errorf("%s holds no sign-in: run bridge8x8 login", s.Path())
	}
	return f.credentials(), nil
}

// Save keeps the credentials, in place of any others.
func (s Store) Save(c Credentials) error { return s.write(s.Path(), c.file()) }

// LoadPending reads the sign-in that waits for its code; ErrNone if none does.
func (s Store) LoadPending() (Pending, error) {
	var f pendingFile
	if err := s.read(s.pendingPath(), &f); err != nil {
		return Pending{}, err
	}
	return Pending{
		Credentials: f.credentials(), URL: f.URL, Issuer: f.Issuer, Redirect: f.Redirect, State: config.Secret(f.State),
		Verifier: config.Secret(f.Verifier), Until: f.Until, needIss: f.NeedIss,
	}, nil
}

// SavePending keeps a sign-in until its code comes.
func (s Store) SavePending(p Pending) error {
	return s.write(s.pendingPath(), pendingFile{
		credentialsFile: p.file(), URL: p.URL, Issuer: p.Issuer, Redirect: p.Redirect, State: p.State.Reveal(),
		Verifier: p.Verifier.Reveal(), Until: p.Until, NeedIss: p.needIss,
	})
}

// Delete forgets the credentials.
func (s Store) Delete() error { return remove(s.Path()) }

// DeletePending forgets a sign-in that waited for its code.
func (s Store) DeletePending() error { return remove(s.pendingPath()) }

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s Store) read(path string, into any) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNone
	}
	if err != nil {
		return fmt.Errorf("the sign-in cannot be read: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): run chmod 600 on it, and bridge8x8 login anew if you do not know why", path, info.Mode().Perm())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the sign-in cannot be read: %w", err)
	}
	if json.Unmarshal(content, into) != nil { // its text could quote the file
		return fmt.Errorf("%s is damaged: run bridge8x8 login", path)
	}
	return nil
}

// write puts a file there as a whole, or leaves what was there.
func (s Store) write(path string, value any) (err error) {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("the sign-in cannot be kept: %w", err)
		}
	}()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is gone if all went well
	if _, err = f.Write(append(content, '\n')); err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// lock keeps the user's other processes from renewing the same sign-in: a
// refresh token is good once.
func (s Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := filelock.Lock(f)
		if err == nil {
			return func() { filelock.Unlock(f) }, nil
		}
		if !errors.Is(err, filelock.ErrLocked) {
			_ = f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, errors.New("another process has been renewing the sign-in for too long")
		case <-again.C:
		}
	}
}

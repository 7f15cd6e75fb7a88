package server

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// CertificateFiles are the server's certificate chain and its key, PEM. They
// are read again when they have changed.
type CertificateFiles struct{ Certificate, Key string }

// certificateAge is how old a read certificate may be before the files are
// looked at again.
const certificateAge = 5 * time.Second

// certificate serves what the files hold.
type certificate struct {
	files CertificateFiles
	log   *slog.Logger

	mu      sync.Mutex // guards all below
	looked  time.Time
	changed time.Time
	current *tls.Certificate
}

// newCertificate reads the files; an error tells what is wrong with them.
func newCertificate(files CertificateFiles, log *slog.Logger) (*certificate, error) {
	c := &certificate{files: files, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificate) read() error {
	pair, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return fmt.Errorf("cannot load the bus's certificate %s with the key %s: %w", c.files.Certificate, c.files.Key, err)
	}
	c.current = &pair
	c.looked = time.Now()
	c.changed = c.modified()
	return nil
}

func (c *certificate) modified() time.Time {
	if info, err := os.Stat(c.files.Certificate); err == nil {
		return info.ModTime()
	}
	return time.Time{}
}

// get is a tls.Config's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) > certificateAge {
		c.looked = time.Now()
		if now := c.modified(); !now.Equal(c.changed) {
			// While the files are replaced one by one the old one serves.
			if err := c.read(); err != nil {
				c.log.Warn("the bus's certificate changed and is of no use; the old one serves on", "error", err)
			} else {
				c.log.Info("the bus's certificate changed")
			}
		}
	}
	return c.current, nil
}

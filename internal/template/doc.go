// Package template builds and keeps the immutable root file systems of boxes.
//
// A [Recipe] says what goes into one: where it starts (a Debian suite, an OCI
// image, another template) and what is added. [Store.Build] turns it into one
// uncompressed EROFS image, which gVisor maps and the kernel mounts, and a
// [bulkhead.Template] that describes it. Images are named by a digest over the
// resolved recipe, are never changed once they are there, and are found by name
// through small pointer files:
//
//	DIR/templates/<hex digest>/rootfs.erofs   the image
//	DIR/templates/<hex digest>/template.json  its description
//	DIR/templates/names/<name>                "sha256:<hex digest>"
//	DIR/templates/build/<random>/             a build that is going on
//	DIR/cache/                                packages that were downloaded
//
// Whatever a build does is visible only when its directory is renamed into
// place, so one that dies, however it dies, leaves nothing but a directory below
// build/, which [Store.Reap] removes. The programs of a build run in a
// [jail]; it is a fence, not a sandbox, so recipes are for operators: a tenant's
// steps run in a box, whose changes come here as a layer.
//
// A [Store] may be used by any number of goroutines, and any number of processes
// may open the same directory: builds take turns.
//
// [jail]: https://pkg.go.dev/github.com/bulkheadhq/bulkhead/internal/template/jail
package template

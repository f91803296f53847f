package hint

// Calls.
const (
	Init      Word = "cocoon system init"
	MakeStore Word = "cocoon system init makes one; vm create, image import, snapshot import and snapshot pull do so by themselves"
	Repair    Word = "cocoon system repair"
	DoctorFix Word = "cocoon system doctor --fix"
	CreateKey Word = "cocoon system key create"
	Settings  Word = "cocoon config show"

	Collect       Word = "cocoon gc"
	PlanCollect   Word = "cocoon gc --dry-run"
	AcceptLoss    Word = "cocoon gc --accept-loss"
	ForgetNetwork Word = "cocoon gc --forget-network" // ID of a VM

	Prune      Word = "cocoon snapshot prune"
	Remove     Word = "cocoon snapshot rm"
	Rename     Word = "cocoon snapshot rename"
	Unprotect  Word = "cocoon snapshot unprotect"
	VerifyAll  Word = "cocoon snapshot verify --all"
	VerifyData Word = "cocoon snapshot verify --read-data"
	Import     Word = "cocoon snapshot import"
	ToStream   Word = "cocoon snapshot export SNAPSHOT -o -"

	ImportImage Word = "cocoon image import"
	UnpinImage  Word = "cocoon image unpin"

	Create   Word = "cocoon vm create"
	Clone    Word = "cocoon vm create NAME --from-snapshot {}"
	Wake     Word = "cocoon vm start"
	WakeCold Word = "cocoon vm start --cold"
	Resume   Word = "cocoon vm resume"
	Stop     Word = "cocoon vm stop"
)

// Options.
const (
	RootDir Word = "--root-dir"
	RunDir  Word = "--run-dir"
	KeyFile Word = "--key-file"

	Kernel    Word = "--kernel"
	Firmware  Word = "--firmware"
	Initramfs Word = "--initramfs"
	Image     Word = "--image"
	Disks     Word = "--disk"
	Networks  Word = "--network"

	FromSnapshot      Word = "--from-snapshot"
	RestoreMode       Word = "--restore-mode"
	Clock             Word = "--guest-clock"
	Cold              Word = "--cold"
	AllowIncompatible Word = "--allow-incompatible"
	Backup            Word = "--backup"
	Force             Word = "--force"

	Name        Word = "--name"
	Replace     Word = "--replace"
	Capture     Word = "--capture"
	Accept      Word = "--accept-loss"
	Max         Word = "--max"
	Parent      Word = "--parent"
	Tag         Word = "--tag"
	TrustPaths  Word = "--trust-paths"
	TrustArgs   Word = "--trust-args"
	NewID       Word = "--new-id"
	Format      Word = "--format"
	Concurrency Word = "--concurrency"
)

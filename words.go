package cocoon

import "github.com/cocoonv2/cocoon/internal/base/hint"

// A program is told of its own calls and fields where the command tells of commands
// and flags. What it lacks keeps the name that the command has for it.
func init() { hint.Speak(names) }

var names = map[hint.Word]string{
	hint.MakeStore: "Options.Create makes one",
	hint.Repair:    "Host.Repair()",
	hint.Collect:   "Host.Collect()", hint.PlanCollect: "Host.Collect(dryRun)",

	hint.Prune:  "Host.Prune()",
	hint.Remove: "Host.Remove({})",
	hint.Import: "Host.Import({})", hint.VerifyAll: "Host.Verify()", hint.VerifyData: "Host.Verify(readData, {})",
	hint.ImportImage: "Host.ImportImage({})", hint.UnpinImage: "Host.UnpinImage({})",

	hint.Create: "Host.Create({})", hint.Clone: "Host.Clone({})",
	hint.Wake: "Host.Wake({})", hint.WakeCold: "RestoreOptions.Cold of Host.Wake({})",
	hint.Stop: "Host.Stop({})",

	hint.RootDir: "Options.RootDir", hint.RunDir: "Options.RunDir", hint.KeyFile: "Options.KeyFile",
	hint.Kernel: "VM.Kernel", hint.Firmware: "VM.Firmware", hint.Initramfs: "VM.Initramfs", hint.Image: "VM.Image",
	hint.Disks: "VM.Disks", hint.Networks: "Networks",
	hint.FromSnapshot: "Host.Clone()", hint.RestoreMode: "RestoreOptions.Mode", hint.Clock: "RestoreOptions.StandStill", hint.Cold: "RestoreOptions.Cold",
	hint.AllowIncompatible: "RestoreOptions.AllowIncompatible", hint.Backup: "RestoreOptions.Backup",
	hint.Replace: "SaveOptions.Replace", hint.Capture: "SaveOptions.Mode", hint.Parent: "SaveOptions.Parent",
	hint.Name: "name", hint.Format: "format",
}

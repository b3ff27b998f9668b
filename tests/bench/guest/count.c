/*
 * A QEMU plugin that counts the instructions a guest executes until the first one of its init,
 * which is linked at an address where no kernel has code of its own, and then ends QEMU.
 *
 *   -plugin count.so,init=ADDRESS[,profile=FILE]
 *
 * Each repetition of a string instruction counts as one, as it costs one. FILE gets a line
 * "address count" for each instruction. No Debian package has QEMU's header: what is used of the
 * interface (version 1, docs/devel/tcg-plugins.rst) is declared here.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
typedef void translated(plugin_id, struct qemu_plugin_tb *);
typedef void executed(unsigned cpu, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated *);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed *, int flags, void *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

enum { ADD = 0, NO_REGISTERS = 0, INIT_BYTES = 1 << 20 };
/* A kernel executes some 200,000 different instructions at boot. */
enum { SLOT_BITS = 22, SLOTS = 1 << SLOT_BITS };

static uint64_t total, init_address;
static const char *profile_path;
static struct slot {
	uint64_t address, count;
} *slots;

static uint64_t *count_of(uint64_t address)
{
	uint64_t i = (address * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - SLOT_BITS);

	while (slots[i].count != 0 && slots[i].address != address)
		i = (i + 1) % SLOTS;
	slots[i].address = address;
	/* Taken from now on; the one too many is subtracted below. */
	if (slots[i].count == 0)
		slots[i].count = 1;
	return &slots[i].count;
}

static void write_profile(void)
{
	FILE *file = fopen(profile_path, "w");

	if (file == NULL) {
		perror(profile_path);
		return;
	}
	for (size_t i = 0; i < SLOTS; i++)
		if (slots[i].count > 1)
			fprintf(file, "%" PRIx64 " %" PRIu64 "\n", slots[i].address, slots[i].count - 1);
	fclose(file);
}

static void init_started(unsigned cpu, void *data)
{
	(void)cpu, (void)data;
	fprintf(stderr, "instructions %" PRIu64 "\n", total);
	if (profile_path != NULL)
		write_profile();
	fflush(NULL);
	_Exit(0);
}

static void on_translated(plugin_id id, struct qemu_plugin_tb *block)
{
	uint64_t address = qemu_plugin_tb_vaddr(block);

	(void)id;
	if (address - init_address < INIT_BYTES)
		qemu_plugin_register_vcpu_tb_exec_cb(block, init_started, NO_REGISTERS, NULL);
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD, &total, 1);
		if (profile_path != NULL)
			qemu_plugin_register_vcpu_insn_exec_inline(
				insn, ADD, count_of(qemu_plugin_insn_vaddr(insn)), 1);
	}
}

EXPORT int qemu_plugin_install(plugin_id id, const struct qemu_info *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "init=", 5) == 0)
			init_address = strtoull(argv[i] + 5, NULL, 0);
		else if (strncmp(argv[i], "profile=", 8) == 0)
			profile_path = strdup(argv[i] + 8);
		else
			return fprintf(stderr, "count.so: what is %s?\n", argv[i]);
	}
	if (profile_path != NULL && (slots = calloc(SLOTS, sizeof *slots)) == NULL)
		return fprintf(stderr, "count.so: out of memory\n");
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
	return 0;
}

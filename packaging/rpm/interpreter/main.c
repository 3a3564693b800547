/* The start of the agent's own program: CPython with everything frozen into it, told to look at nothing outside.
 *
 * No environment variable, no `site`, no search path: what runs is what was linked.  `__file__` of a frozen module reads
 * as if the program were a folder, `/usr/libexec/contextagent/contextagent/os.py`.
 * Called under a name that begins with `python`, it is a plain interpreter with the same modules, for tests.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <marshal.h>

#include <limits.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#define INSTALLED "/usr/libexec/contextagent/contextagent"

extern const struct _frozen frozen_modules[];
extern const char boot_bytes[], boot_end[];
PyMODINIT_FUNC PyInit__guestos(void);
PyMODINIT_FUNC PyInit__netifaces(void);

static char executable[PATH_MAX], folder[PATH_MAX];

static void find_executable(const char *name)
{
    ssize_t size = readlink("/proc/self/exe", executable, sizeof executable - 1);
    if (size <= 0) { /* no /proc yet */
        const char *given = (const char *)getauxval(AT_EXECFN); /* Linux 2.6.27 */
        if (!given || !*given)
            given = strchr(name, '/') ? name : INSTALLED;
        strncpy(executable, given, sizeof executable - 1);
    }
    strcpy(folder, executable);
    char *end = strrchr(folder, '/');
    if (end)
        end[end == folder] = 0;
}

static void must(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static void set(PyConfig *config, wchar_t **member, const char *text)
{
    must(PyConfig_SetBytesString(config, member, text));
}

static void start(int argc, char **argv, int is_plain)
{
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1; /* a boot has no locale, and file names are bytes */
    must(Py_PreInitialize(&before));
    if (PyImport_AppendInittab("contextagent.host._guestos", PyInit__guestos) ||
        PyImport_AppendInittab("_netifaces", PyInit__netifaces))
        Py_FatalError("no memory");
    PyImport_FrozenModules = frozen_modules;

    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.write_bytecode = 0;
    config.pathconfig_warnings = 0;
    config.install_signal_handlers = 1;
    config.code_debug_ranges = 0;
    config.parse_argv = is_plain; /* the agent's options are its own */
    config.module_search_paths_set = 1;
    set(&config, &config.executable, executable);
    set(&config, &config.base_executable, executable);
    set(&config, &config.program_name, executable);
    set(&config, &config.stdlib_dir, executable);
    set(&config, &config.prefix, folder);
    set(&config, &config.exec_prefix, folder);
    set(&config, &config.base_prefix, folder);
    set(&config, &config.base_exec_prefix, folder);
    set(&config, &config.platlibdir, "lib");
    must(PyConfig_SetBytesArgv(&config, argc, argv));
    must(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
}

struct row {
    PyObject *name, *parent, *path, *code; /* of `boot.bin` (freeze.py); the parent of what has none is empty */
    int is_package;
};

static int read_row(PyObject *rows, Py_ssize_t at, struct row *row)
{
    return PyArg_ParseTuple(PyTuple_GET_ITEM(rows, at), "UUUpO", &row->name, &row->parent, &row->path, &row->is_package,
                            &row->code) ? 0 : -1;
}

/* Make an empty module, with what an import would set in it before its code runs. */
static int make_module(const struct row *row)
{
    PyObject *module = PyImport_AddModuleObject(row->name), *file = PyUnicode_FromFormat("%s/%U", executable, row->path);
    PyObject *inside = row->is_package ? PyList_New(0) : Py_NewRef(Py_None);
    int is_failed = !module || !file || !inside || PyModule_AddObjectRef(module, "__file__", file) ||
                    PyModule_AddObjectRef(module, "__package__", row->is_package ? row->name : row->parent) ||
                    (row->is_package && PyModule_AddObjectRef(module, "__path__", inside));
    Py_XDECREF(file);
    Py_XDECREF(inside);
    return is_failed ? -1 : 0;
}

/* Run a module's code, and show the module to its package. */
static int run_module(const struct row *row)
{
    PyObject *module = PyImport_AddModuleObject(row->name), *names = PyModule_GetDict(module);
    PyObject *done = PyEval_EvalCode(row->code, names, names);
    const char *dot = strrchr(PyUnicode_AsUTF8(row->name), '.');
    Py_XDECREF(done);
    return done && (!dot || !PyObject_SetAttrString(PyImport_AddModuleObject(row->parent), dot + 1, module)) ? 0 : -1;
}

/* Load the modules that every boot imports: in one piece and in order they cost half of what it costs to look for each. */
static int load_boot(void)
{
    PyObject *rows = PyMarshal_ReadObjectFromString(boot_bytes, boot_end - boot_bytes);
    Py_ssize_t count = rows ? PyTuple_GET_SIZE(rows) : 0;
    int is_failed = !rows;
    struct row row;
    for (Py_ssize_t i = 0; i < count && !is_failed; i++)
        is_failed = read_row(rows, i, &row) || make_module(&row);
    for (Py_ssize_t i = 0; i < count && !is_failed; i++)
        is_failed = read_row(rows, i, &row) || run_module(&row);
    Py_XDECREF(rows);
    return is_failed ? -1 : 0;
}

/* Run contextagent/__main__.py as the program that it is; it ends the process itself when all goes well. */
static int run_agent(int is_loading)
{
    PyGC_Disable(); /* nothing that is loaded here is rubbish */
    if (is_loading && load_boot()) {
        PyErr_Print();
        return 1;
    }
    PyGC_Enable();
    PyObject *module = PyImport_AddModule("__main__"), *package = PyUnicode_FromString("contextagent");
    if (!module || !package || PyObject_SetAttrString(module, "__package__", package) ||
        PyImport_ImportFrozenModule("__main__") <= 0) {
        PyErr_Print(); /* exits by itself where that was asked for */
        return 1;
    }
    return Py_FinalizeEx() < 0 ? 120 : 0;
}

/* Whether this is a boot that has not been yet; `--resume` mostly finds one that has, and only tells of it. */
static int is_boot(int argc, char **argv)
{
    for (int at = 2; at < argc; at++)
        if (!strcmp(argv[at], "--resume"))
            return 0;
    return argc > 1 && !strcmp(argv[1], "run");
}

int main(int argc, char **argv)
{
    const char *name = argc ? argv[0] : INSTALLED, *base = strrchr(name, '/');
    int is_plain = !strncmp(base ? base + 1 : name, "python", 6);
    find_executable(name);
    start(argc, argv, is_plain);
    return is_plain ? Py_RunMain() : run_agent(is_boot(argc, argv));
}

/* A WASI program of many kinds; the first argument says which. Exit code 9 means that something failed that should not
 * have; its standard error says what. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static char block[1 << 16];

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 9;
}

static int cat(FILE *from, FILE *to) {
    size_t size;
    while ((size = fread(block, 1, sizeof block, from)) > 0)
        fwrite(block, 1, size, to);
    return fflush(to) ? failed("write") : 0;
}

static int wc(void) {
    int c, in_word = 0;
    long lines = 0, words = 0, bytes = 0;
    while ((c = getchar()) != EOF) {
        bytes++;
        lines += c == '\n';
        if (c == ' ' || c == '\n')
            in_word = 0;
        else if (!in_word)
            in_word = 1, words++;
    }
    printf("%ld %ld %ld\n", lines, words, bytes);
    return 0;
}

static int read_file(const char *name) {
    FILE *file = fopen(name, "rb");
    return file ? cat(file, stdout) : failed(name);
}

static int write_file(const char *name, const char *content) {
    FILE *file = fopen(name, "wb");
    if (!file || fputs(content, file) < 0 || fclose(file))
        return failed(name);
    return 0;
}

/* Endless files of 4 MiB; those that are deleted stay open. */
static int fill(int is_deleted) {
    char name[32];
    for (int number = 0;; number++) {
        snprintf(name, sizeof name, "f%d", number);
        int fd = open(name, O_WRONLY | O_CREAT, 0600);
        if (fd < 0)
            return failed(name);
        if (is_deleted && unlink(name))
            return failed("unlink");
        for (int i = 0; i < 64; i++)
            if (write(fd, block, sizeof block) < 0)
                return failed("write");
        if (!is_deleted)
            close(fd);
    }
}

static int grow(void) {
    int fd = open("big", O_WRONLY | O_CREAT, 0600);
    long size = 0;
    for (;;) {
        ssize_t written = write(fd, block, sizeof block);
        if (written < 0) {
            fprintf(stderr, "%ld", size);
            return errno == EFBIG ? 4 : failed("write");
        }
        size += written;
    }
}

static int many(void) {
    char name[32];
    for (int number = 0;; number++) {
        snprintf(name, sizeof name, "n%d", number);
        int fd = open(name, O_WRONLY | O_CREAT, 0600);
        if (fd < 0)
            return failed(name);
        close(fd);
    }
}

/* Folders in each other, deeper than any path is long. */
static int nest(int levels) {
    int folder = open(".", O_RDONLY | O_DIRECTORY);
    for (int level = 0; level < levels; level++) {
        if (mkdirat(folder, "d", 0700))
            return failed("mkdir");
        int inner = openat(folder, "d", O_RDONLY | O_DIRECTORY);
        if (inner < 0)
            return failed("open");
        close(folder);
        folder = inner;
    }
    return 0;
}

static int allocate(void) {
    const size_t pages = 16; /* a mebibyte */
    long megabytes = 0;
    for (;; megabytes++) {
        size_t first = __builtin_wasm_memory_grow(0, pages);
        if (first == (size_t)-1)
            break;
        for (size_t page = first; page < first + pages; page++)
            *(volatile char *)(page << 16) = 1;
    }
    printf("%ld\n", megabytes);
    return 0;
}

__attribute__((noinline)) static int recurse(volatile int *depth) {
    volatile int inner = *depth + 1;
    return inner < 0 ? 0 : recurse(&inner) + inner;
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    const char *name = count > 2 ? arguments[2] : "";
    const char *text = count > 3 ? arguments[3] : "";
    volatile int zero = 0;
    memset(block, 'x', sizeof block);
#define IS(word) (!strcmp(what, word))
    if (IS("cat"))
        return cat(stdin, stdout);
    if (IS("wc"))
        return wc();
    if (IS("arguments")) {
        for (int i = 0; i < count; i++)
            puts(arguments[i]);
        return 0;
    }
    if (IS("environment")) {
        for (char **entry = environ; entry && *entry; entry++)
            puts(*entry);
        return 0;
    }
    if (IS("read"))
        return read_file(name);
    if (IS("write"))
        return write_file(name, text);
    if (IS("complain")) {
        fputs(name, stderr);
        return 0;
    }
    if (IS("symlink"))
        return symlink(name, text) ? failed("symlink") : 0;
    if (IS("link"))
        return write_file(name, "twice") || link(name, text) ? failed("link") : 0;
    if (IS("mkdir"))
        return mkdir(name, 0700) ? failed("mkdir") : 0;
    if (IS("list")) {
        DIR *folder = opendir(name);
        for (struct dirent *entry; folder && (entry = readdir(folder));)
            puts(entry->d_name);
        return 0;
    }
    if (IS("exit"))
        return atoi(name);
    if (IS("trap"))
        fputs("last words", stderr), __builtin_trap();
    if (IS("recurse"))
        return recurse(&zero);
    if (IS("spin")) {
        if (*name && write_file(name, "it runs"))
            return 9;
        for (;;)
            zero = 0;
    }
    if (IS("sleep"))
        sleep(3600);
    if (IS("flood"))
        for (;;)
            fwrite(block, 1, sizeof block, *name == 'e' ? stderr : stdout);
    if (IS("print")) {
        for (int i = atoi(name); i > 0; i -= (int)sizeof block)
            fwrite(block, 1, i < (int)sizeof block ? (size_t)i : sizeof block, stdout);
        return 0;
    }
    if (IS("fill"))
        return fill(*name == 'd');
    if (IS("grow"))
        return grow();
    if (IS("many"))
        return many();
    if (IS("nest"))
        return nest(atoi(name));
    if (IS("allocate"))
        return allocate();
    fprintf(stderr, "no such kind: %s\n", what);
    return 9;
}

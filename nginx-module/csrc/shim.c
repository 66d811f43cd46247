#include "shim.h"

void
ngx_http_jwt_shim_log(ngx_uint_t level, ngx_log_t *log, const u_char *text, size_t len)
{
    ngx_log_error(level, log, 0, "%*s", len, text);
}

void
ngx_http_jwt_shim_conf_log(ngx_uint_t level, ngx_conf_t *cf, const u_char *text, size_t len)
{
    ngx_conf_log_error(level, cf, 0, "%*s", len, text);
}

time_t
ngx_http_jwt_shim_time(void)
{
    return ngx_time();
}

char *
ngx_http_jwt_shim_conf_error(void)
{
    return NGX_CONF_ERROR;
}

ngx_int_t
ngx_http_jwt_shim_parse_time(const u_char *text, size_t len, ngx_uint_t is_sec)
{
    ngx_str_t  line;

    /* ngx_parse_time() reads only. */
    line.data = (u_char *) text;
    line.len = len;

    return ngx_parse_time(&line, is_sec);
}
